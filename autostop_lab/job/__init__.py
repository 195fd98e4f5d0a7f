"""The handle of a job, its code, the receipt of its cleanup, and the audit of what it left."""
