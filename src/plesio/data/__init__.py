"""Data for training: records by number out of files here or anywhere, prepared ahead on other slots and machines.

source: records of JSONL, text, CSV, Parquet, whole files, or images. feed: units of a run with their prepared batches.
stage: the task that prepares one. Importing it loads neither torch nor a client.
"""

from plesio.data.feed import batches
from plesio.data.source import Source, open_source

__all__ = ["Source", "batches", "open_source"]
