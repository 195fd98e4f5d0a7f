"""The handle of a job, the receipt of its cleanup, and the audit of what it left."""
