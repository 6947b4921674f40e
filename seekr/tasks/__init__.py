"""Data in the formats that people keep it in, as examples and as token ids."""

from seekr.tasks.answers import AnswerForm, AnswerKey, Asked, key_of
from seekr.tasks.encoding import (
    Encoded,
    EncodingSummary,
    encode,
    encode_all,
    encode_prompt,
    encode_prompts,
    max_length_of,
)
from seekr.tasks.example import Chat, Example
from seekr.tasks.fields import field_notes
from seekr.tasks.folders import Split
from seekr.tasks.messages import Message
from seekr.tasks.reading import read_rows, read_split, task_from_folder
from seekr.tasks.task import Task, check_tasks
from seekr.tasks.tokenizing import check_tokenizer

__all__ = [
    "AnswerForm",
    "AnswerKey",
    "Asked",
    "Chat",
    "Encoded",
    "EncodingSummary",
    "Example",
    "Message",
    "Split",
    "Task",
    "check_tasks",
    "check_tokenizer",
    "encode",
    "encode_all",
    "encode_prompt",
    "encode_prompts",
    "field_notes",
    "key_of",
    "max_length_of",
    "read_rows",
    "read_split",
    "task_from_folder",
]
