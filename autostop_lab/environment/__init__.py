"""THE USER'S DOOR. Where services are registered, pipelines written and jobs submitted."""
