"""Text to NumPy batches: readers, tokenizer, encoders and the sampler."""

from rlhf_jax.data.chat import TooLongError, encode_chat, encode_chats, render_chat
from rlhf_jax.data.chat_template import ChatTemplate, load_chat_template
from rlhf_jax.data.comparisons import (
    NoPairError,
    Ranking,
    checked_ranking,
    encode_rankings,
    ranking_fits,
    read_rankings,
    whole_ranks,
    write_rankings,
)
from rlhf_jax.data.content import content_sha256
from rlhf_jax.data.corpus import as_text_batch, mask_tokens, pack, read_texts, text_documents
from rlhf_jax.data.demonstrations import (
    Demonstration,
    encode_demonstrations,
    exchange_answers,
    fits,
    read_demonstrations,
)
from rlhf_jax.data.dialogue import (
    ASSISTANT,
    HUMAN,
    Answer,
    Conversation,
    Message,
    Messages,
    parse_transcript,
    prompt_text,
    render,
    split_last_answer,
    text_of,
)
from rlhf_jax.data.model_folder import TOKENIZER_FILES, tokenizer_files
from rlhf_jax.data.permutation import permute
from rlhf_jax.data.prompts import (
    Columns,
    Prompt,
    drop_shared_prefixes,
    encode_prompts,
    limit_per_user,
    prompt_fits,
    read_prompts,
)
from rlhf_jax.data.records import Records
from rlhf_jax.data.sampler import batch_indices, take, without_padding
from rlhf_jax.data.sources import Row, read_rows
from rlhf_jax.data.splits import Split, not_held_out, split_documents, split_of
from rlhf_jax.data.stream import TextStream, weighted_sources
from rlhf_jax.data.table import Table, coefficient_table
from rlhf_jax.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer, train_tokenizer

__all__ = [
    "ASSISTANT",
    "HUMAN",
    "TOKENIZER_FILES",
    "Answer",
    "ChatTemplate",
    "Columns",
    "Conversation",
    "Demonstration",
    "Message",
    "Messages",
    "NoPairError",
    "Prompt",
    "Ranking",
    "Records",
    "Row",
    "Split",
    "Table",
    "TextStream",
    "Tokenizer",
    "TooLongError",
    "as_text_batch",
    "batch_indices",
    "check_vocabulary",
    "checked_ranking",
    "coefficient_table",
    "content_sha256",
    "drop_shared_prefixes",
    "encode_chat",
    "encode_chats",
    "encode_demonstrations",
    "encode_prompts",
    "encode_rankings",
    "exchange_answers",
    "fits",
    "limit_per_user",
    "load_chat_template",
    "load_tokenizer",
    "mask_tokens",
    "not_held_out",
    "pack",
    "parse_transcript",
    "permute",
    "prompt_fits",
    "prompt_text",
    "ranking_fits",
    "read_demonstrations",
    "read_prompts",
    "read_rankings",
    "read_rows",
    "read_texts",
    "render",
    "render_chat",
    "split_documents",
    "split_last_answer",
    "split_of",
    "take",
    "text_documents",
    "text_of",
    "tokenizer_files",
    "train_tokenizer",
    "weighted_sources",
    "whole_ranks",
    "without_padding",
    "write_rankings",
]
