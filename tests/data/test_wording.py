"""Messages in words: the teacher's ends in exactly the student's."""

import pytest

from nopsd.data.wording import student_message, teacher_message
from tests.data.asked import CHOICE, DEMOS, PHRASE, QUESTION


@pytest.mark.parametrize("question", [QUESTION, CHOICE, PHRASE])
def test_the_teachers_message_ends_in_exactly_the_students(question):
    assert teacher_message(question, DEMOS).endswith(student_message(question))
    assert teacher_message(question, []) == student_message(question)
