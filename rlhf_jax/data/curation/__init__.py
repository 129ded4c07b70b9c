"""Prompt curation, InstructGPT's §3.2 and App. A.4: each step is a function of prompts to kept and dropped ones."""

from rlhf_jax.data.curation.curated import Curated, Dropped, written
from rlhf_jax.data.curation.languages import codes, drop_other_languages, identifier
from rlhf_jax.data.curation.lengths import drop_by_length
from rlhf_jax.data.curation.near_duplicates import drop_near_duplicates
from rlhf_jax.data.curation.pii import KINDS, Personal, drop_personal, personal_data
from rlhf_jax.data.curation.prefixes import drop_shared_prefixes
from rlhf_jax.data.curation.repeats import drop_repeats
from rlhf_jax.data.curation.use_cases import TABLE_1, use_case, with_use_case
from rlhf_jax.data.curation.users import limit_per_user

__all__ = [
    "KINDS",
    "TABLE_1",
    "Curated",
    "Dropped",
    "Personal",
    "codes",
    "drop_by_length",
    "drop_near_duplicates",
    "drop_other_languages",
    "drop_personal",
    "drop_repeats",
    "drop_shared_prefixes",
    "identifier",
    "limit_per_user",
    "personal_data",
    "use_case",
    "with_use_case",
    "written",
]
