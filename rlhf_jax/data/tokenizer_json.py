"""A sentencepiece model as the tokenizer.json of Hugging Face's library, with the same ids for every text."""

import base64
import re
from itertools import pairwise
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from rlhf_jax.data.sentencepieces import KEEP_SPACES
from rlhf_jax.errors import InputError

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # SentencePiece.Type
SPACE = "▁"  # what sentencepiece writes for a space


def sentencepiece_spec(model: bytes) -> dict[str, Any]:
    """The tokenizer.json of a .model file.

    Byte-pair encoding merges the pair whose piece has the best score, of equal ones the leftmost; the library goes by the
    place of a merge in its list (`_merges`). Pieces that a text holds as they are ("user-defined": of ours "\\n" and the
    markers of a turn) are cut out first and are then looked up whole, as is all that stands between two of them: what
    sentencepiece would not read as the one piece that it spells, a pattern cuts where sentencepiece does (`_cuts`).

    InputError: a vocabulary that is neither a BPE nor a unigram, or a unigram with user-defined pieces.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
    pieces, kind, form = list(proto.pieces), proto.trainer_spec.model_type, proto.normalizer_spec
    defined = sorted((p.piece for p in pieces if p.type == USER_DEFINED), key=len, reverse=True)
    if kind not in (UNIGRAM, BPE) or (kind == UNIGRAM and defined):
        raise InputError("only a BPE, or a unigram without user-defined pieces, can become a tokenizer.json")
    of_model: dict[str, Any] = {"byte_fallback": any(p.type == BYTE for p in pieces)}
    pre_tokenizers = []
    unknown = next(p.piece for p in pieces if p.type == UNKNOWN)
    if kind == UNIGRAM:
        ids = {p.piece: i for i, p in enumerate(pieces)}
        of_model |= {"type": "Unigram", "vocab": [[p.piece, p.score] for p in pieces], "unk_id": ids[unknown]}
    else:
        vocab = {p.piece: i for i, p in enumerate(pieces)}
        of_model |= {"type": "BPE", "vocab": vocab, "merges": _merges(pieces), "fuse_unk": True, "unk_token": unknown}
    if defined:
        of_model["ignore_merges"] = True
        pre_tokenizers = [_isolated("|".join(map(_escaped, defined)))]
        if cuts := _cuts(model, pieces):
            pre_tokenizers.append(_isolated(cuts))
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    decoders = [_replace(SPACE, " "), _replace(unknown, " ⁇ "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if form.add_dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": p.piece, **special} for i, p in enumerate(pieces) if p.type == CONTROL],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(form)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers} if pre_tokenizers else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": of_model,
    }


def _normalizers(form: Any) -> list[dict[str, Any]]:
    found = []
    if form.precompiled_charsmap:
        charsmap = base64.b64encode(form.precompiled_charsmap).decode()
        found.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if form.remove_extra_whitespaces:
        found += [{"type": "Strip", "strip_left": True, "strip_right": True}, _replace({"Regex": " {2,}"}, " ")]
    if form.add_dummy_prefix:
        found.append({"type": "Prepend", "prepend": SPACE})
    return [*found, _replace(" ", SPACE)]


def _merges(pieces: list[Any]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the best score first.

    Pairs that make the same piece have one score, and sentencepiece takes the leftmost place. The library would take the one
    that comes first here; but that both stand in a text and overlap, s₁s₂ = s₂s₃, merging from the left does not leave.
    """
    scores = {p.piece: p.score for p in pieces if p.type in (NORMAL, UNUSED)}
    order = {piece: i for i, piece in enumerate(scores)}
    made = []
    for piece in sorted(scores, key=lambda piece: (-scores[piece], order[piece])):
        cuts = range(1, len(piece))
        made += [(piece[:i], piece[i:]) for i in cuts if piece[:i] in scores and piece[i:] in scores]
    return made


def _cuts(model: bytes, pieces: list[Any]) -> str:
    """A pattern that cuts a text which is one piece's name, and which sentencepiece reads otherwise, where it does."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model + KEEP_SPACES)  # pyright: ignore[reportCallIssue]
    parts, longest = [], 0
    for id, piece in enumerate(pieces):
        found = processor.encode(piece.piece, out_type="offset_mapping")
        if piece.type == USER_DEFINED or found["ids"] == [id]:
            continue
        longest = max(longest, len(piece.piece))
        borders = sorted({0, len(piece.piece), *(end for _, end in found["offsets"])})
        for begin, end in pairwise(borders):
            before, part, after = (
                _escaped(x) for x in (piece.piece[:begin], piece.piece[begin:end], piece.piece[end:])
            )
            parts.append(rf"(?<=\A{before}){part}(?={after}\z)" if before else rf"\A{part}(?={after}\z)")
    return rf"(?=[\s\S]{{1,{longest}}}\z)(?:{'|'.join(parts)})" if parts else ""


def _escaped(text: str) -> str:
    """A regular expression of the library that matches the text."""
    return re.escape(text).replace("\\\n", "\\n")


def _isolated(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _replace(pattern: str | dict[str, str], content: str) -> dict[str, Any]:
    return {
        "type": "Replace",
        "pattern": {"String": pattern} if isinstance(pattern, str) else pattern,
        "content": content,
    }
