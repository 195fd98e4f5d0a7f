"""The live panel: pictures of what runs, and buttons that work while the cell runs."""
