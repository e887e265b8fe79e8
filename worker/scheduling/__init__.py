"""The first door: slots become runs. Also what can be told and foretold of schedules."""
