"""What a run needs of a task beside its loss: one kind of problem, one file."""

from date_jax.courses import capture, grounding, same_style
from date_jax.courses.course import Course, Evaluate, Evaluated

__all__ = ["COURSES", "Course", "Evaluate", "Evaluated"]

COURSES: dict[str, Course] = {  # by config.task
    "pgda": grounding.COURSE,
    "date": grounding.COURSE,
    "capture": capture.COURSE,
    "same_style": same_style.COURSE,
}
