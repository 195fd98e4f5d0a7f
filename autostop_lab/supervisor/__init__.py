"""KEEPS SERVICES ALIVE, AND ENDS THEM. plan (order), unit (one service), outcome, the supervisor and its loop."""
