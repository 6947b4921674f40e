"""Data in the formats that people keep it in, as examples and as token ids."""

from seekr.data.answers import AnswerForm, AnswerKey, Asked, key_of
from seekr.data.encoding import (
    Encoded,
    EncodingSummary,
    encode,
    encode_all,
    encode_prompts,
    max_length_of,
)
from seekr.data.example import Chat, Example
from seekr.data.fields import field_notes
from seekr.data.folders import Split
from seekr.data.messages import Message
from seekr.data.reading import read_rows, read_split, task_from_folder
from seekr.data.task import Task, check_tasks
from seekr.data.tokenizing import check_tokenizer

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
    "encode_prompts",
    "field_notes",
    "key_of",
    "max_length_of",
    "read_rows",
    "read_split",
    "task_from_folder",
]
