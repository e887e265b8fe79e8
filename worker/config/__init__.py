"""From settings to what the worker is made of: tasks found, files read, stores named."""
