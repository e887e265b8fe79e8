"""What a person does to schedules and jobs from outside of a running worker."""
