"""WHAT A JOB NEEDS. Service, Command, specs, policies, probes, handles; one file per runtime."""
