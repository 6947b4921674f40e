"""What is on the disk: whole files, their hashes, and what is encrypted."""

from seekr.disk.files import (
    PRIVATE,
    STDOUT,
    Fault,
    Listing,
    check_writable,
    faults_of_files,
    file_digest,
    flush,
    json_text,
    list_files,
    parse_json,
    read_json,
    sync,
    user_path,
    write_atomically,
    write_json,
)
from seekr.disk.sealed import is_encrypted, read_text, write_text

__all__ = [
    "PRIVATE",
    "STDOUT",
    "Fault",
    "Listing",
    "check_writable",
    "faults_of_files",
    "file_digest",
    "flush",
    "is_encrypted",
    "json_text",
    "list_files",
    "parse_json",
    "read_json",
    "read_text",
    "sync",
    "user_path",
    "write_atomically",
    "write_json",
    "write_text",
]
