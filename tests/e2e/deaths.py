"""What a test and its dying worker agree on."""

PARENT = ", with its parent"
"""At the end of a point: the whole worker dies there, not only the process that runs the job."""
POISON = 666
"""The seed of a job that kills whoever begins it, every time."""
