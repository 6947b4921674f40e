"""Data in the formats that people keep it in, as examples and as token ids."""

from seekr.data.answers import AnswerKey as AnswerKey
from seekr.data.answers import Asked as Asked
from seekr.data.answers import key_of as key_of
from seekr.data.encoding import Encoded as Encoded
from seekr.data.encoding import EncodingSummary as EncodingSummary
from seekr.data.encoding import encode as encode
from seekr.data.encoding import encode_all as encode_all
from seekr.data.encoding import encode_prompts as encode_prompts
from seekr.data.encoding import max_length_of as max_length_of
from seekr.data.example import Chat as Chat
from seekr.data.example import Example as Example
from seekr.data.fields import field_notes as field_notes
from seekr.data.reading import read_rows as read_rows
from seekr.data.reading import read_split as read_split
from seekr.data.reading import task_from_folder as task_from_folder
from seekr.data.task import Task as Task
from seekr.data.task import check_tasks as check_tasks
