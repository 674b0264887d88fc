"""The training forward in its plainest form: rows padded on the right, the stock modules' own forward passes, torch's cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from qrecipe.model import prompt


@dataclass(frozen=True)
class Reference:
    """Losses of a batch as sums over labels."""

    hidden: torch.Tensor
    """[labels, hidden]."""
    talker: torch.Tensor
    predictor: torch.Tensor


def losses(talker: Any, config: Any, examples: list[prompt.Example]) -> Reference:
    """Both losses of examples through the stock talker and its predictor; every weight is the modules' own."""
    ids = prompt.ControlIds.of(config)
    device = talker.codec_head.weight.device
    laid = []
    for given in examples:
        e = replace(given, codes=given.codes.clone().to(device))  # what was made in inference mode cannot be differentiated through
        assert e.x_vector is not None
        reference = None if e.reference_codes is None else prompt.Reference(e.reference_body or [], len(e.reference_codes))
        prefix = ids.prefix(e.language, speaker=True)
        positions = prompt.build(ids, (e.role, e.body), len(e.codes), layout=e.layout, prefix=prefix, reference=reference)
        heard = torch.cat([e.reference_codes.to(device), e.codes]) if e.reference_codes is not None else e.codes
        x = talker.text_projection(talker.get_text_embeddings()(torch.tensor(positions.text, device=device)))
        codec = talker.get_input_embeddings()(torch.tensor(positions.codec, device=device).clamp(min=0))
        x = x + codec * (torch.tensor(positions.codec, device=device) != prompt.NONE).unsqueeze(1)
        frames = _frames(talker, heard).sum(1)[torch.tensor(positions.frame, device=device).clamp(min=0)]
        x = x + frames * (torch.tensor(positions.frame, device=device) != prompt.NONE).unsqueeze(1)
        voice = torch.zeros(len(positions), 1, device=device)
        voice[positions.speaker] = 1.0
        x = x + voice * e.x_vector.to(device)
        laid.append((x, positions.first, e))
    inputs = torch.nn.utils.rnn.pad_sequence([x for x, _, _ in laid], batch_first=True)
    states = talker.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    hidden, talker_loss, predictor_loss = [], torch.zeros((), device=device), torch.zeros((), device=device)
    for row, (_, first, e) in enumerate(laid):
        end = [] if e.cut else [ids.eos]
        labels = torch.tensor([*e.codes[:, 0].tolist(), *end], device=device)
        mine = states[row, first : first + len(labels)]
        hidden.append(mine)
        talker_loss = talker_loss + F.cross_entropy(talker.codec_head(mine), labels, reduction="sum")
        predictor = talker.code_predictor
        before = _frames(talker, e.codes)[:, :-1]
        x = predictor.small_to_mtp_projection(torch.cat([mine[: len(e.codes), None], before], dim=1))
        out = predictor.model(inputs_embeds=x, use_cache=False).last_hidden_state
        for i, head in enumerate(predictor.lm_head, start=1):
            predictor_loss = predictor_loss + F.cross_entropy(head(out[:, i]), e.codes[:, i], reduction="sum")
    return Reference(torch.cat(hidden), talker_loss, predictor_loss)


def _frames(talker: Any, codes: torch.Tensor) -> torch.Tensor:
    """[frames, G] codes -> [frames, G, hidden], each through its own table."""
    tables = [talker.get_input_embeddings(), *talker.code_predictor.get_input_embeddings()]
    return torch.stack([table(codes[:, i]) for i, table in enumerate(tables)], dim=1)
