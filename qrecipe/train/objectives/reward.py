"""The objective `reward`: a policy gradient over groups of samples that are heard.

A group is one sentence, spoken several times in one voice and layout by the weights as they are. A sample's advantage is
its reward less the mean reward of the others of its group (REINFORCE leave-one-out, Ahmadian et al. 2024,
arXiv:2402.14740). The loss is that of PPO (arXiv:1707.06347) for every code: the ratio of its probability to that when it
was drawn, clipped, times the advantage; and, as in GRPO (Shao et al. 2024, arXiv:2402.03300), an estimate of the divergence
from a reference, r - log r - 1 with r = p_reference / p. Neither is divided by a sample's own length or by the spread of its
group, which would favour long samples and easy sentences (Liu et al. 2025, arXiv:2503.20783): the sums are divided by the
frames that the sentences are expected to take, which no sample changes. So, while nothing is clipped, the gradient is that
of the expected reward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch

from qrecipe import phases
from qrecipe.data.batches import Item, Micro
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.model import forward, generate, prompt
from qrecipe.model.generate.likelihood import LogProbs, log_probs, plain
from qrecipe.model.load import LoadedBase
from qrecipe.qwen3 import Layout, PromptKind
from qrecipe.recipe.stage import RewardStage
from qrecipe.train.objectives.objective import Objective, ObjectiveInputs
from qrecipe.train.objectives.speech import SpeechObjective, layout_of

READ_AT_ONCE = 16
"""Samples whose log-probabilities are computed together without gradients."""
SPREAD = 1e-6
"""Rewards of a group that differ by less are equal."""


@dataclass(frozen=True)
class Rollout:
    """One sample of a sentence."""

    dataset: SpeechData
    row: SpeechRow
    """The sentence; its `reference` is the voice."""
    layout: Layout
    codes: torch.Tensor
    """[frames, codebooks] int64."""
    cut: bool
    """Whether it reached its cap instead of ending."""
    cap: int
    """Frames at which it was cut."""
    in_context: bool = False

    @property
    def labels(self) -> int:
        """Codes 0 that were drawn: those of the frames, and the end."""
        return len(self.codes) + (not self.cut)


@dataclass(frozen=True)
class Score:
    """Worth of a sample."""

    reward: float
    """Between 0 and 1."""
    values: dict[str, float]
    """The reward of every metric."""


class Rewarder(Protocol):
    """The parts of a run that the objective needs: weights to speak and to compare with, and ears."""

    def policy(self) -> AbstractContextManager[None]:
        """The modules hold the weights as they are, however they learn, for a while."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """The modules hold the weights that the divergence is taken from, for a while."""
        ...

    def cap(self, row: SpeechRow, language: str) -> int:
        """Frames at which a sentence of a language is cut."""
        ...

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """The reward of every sample, in order."""
        ...

    def report(self, step: int, fields: dict[str, Any]) -> None:
        """Records what a step heard."""
        ...


@dataclass(frozen=True)
class _Group:
    """The samples of one sentence, with all that does not depend on the weights that learn."""

    rollouts: list[Rollout]
    advantages: torch.Tensor
    """[samples]."""
    references: Sequence[LogProbs | None]
    """Of each sample by the reference; None without a divergence."""
    drawn: Sequence[LogProbs | None]
    """Of each sample when it was drawn; None where samples are used once, since the ratio is 1 then."""

    @property
    def learns(self) -> bool:
        """Whether the samples' rewards differ."""
        return bool(self.advantages.abs().max() > SPREAD)


class RewardObjective(Objective):
    """Makes likelier what is rewarded above the other samples of its sentence, and replays what the base knows."""

    def __init__(
        self, stage: RewardStage, opened: LoadedBase, tables: forward.Tables, prompts: dict[str, SpeechData], seed: int, rewarder: Rewarder
    ) -> None:
        """`prompts` are the sentences that are rewarded, by dataset. Rows without a `reference` are spoken in all voices by turns."""
        self.stage, self.opened, self.tables, self.seed = stage, opened, tables, seed
        self.prompts, self.rewarder = prompts, rewarder
        self.replay: SpeechObjective | None = None
        """Learns what is replayed, where anything is."""
        self.terms: tuple[str, ...] = ("talker", "predictor")
        """Codes whose probabilities can move: code 0, the others."""
        self.updates = stage.updates
        self.history: list[tuple[int, float]] = []
        """(step, mean reward) of every step that spoke."""
        self.ids = prompt.ControlIds.of(opened.config)
        self.weights = {"policy": 1.0, **({"divergence": stage.kl_weight} if stage.kl_weight > 0 else {})}
        self._groups: dict[tuple[str, int], _Group] = {}
        self._spoke_at = 0

    @classmethod
    def build(cls, stage: RewardStage, inputs: ObjectiveInputs) -> RewardObjective:
        """Rewards sentences in the recipe's own languages, and replays the others."""
        assert inputs.rewarder is not None
        prompts = {name: d for name, d in inputs.speech.items() if d.language in inputs.languages}
        objective = cls(stage, inputs.opened, inputs.tables, prompts, inputs.seed, inputs.rewarder)
        objective.terms = tuple(t for t in objective.terms if t in inputs.terms)
        others = {name: d for name, d in inputs.speech.items() if name not in prompts}
        if others and stage.replay_weight > 0:
            learned = stage.model_copy(update={"kl_weight": 1.0})
            objective.replay = SpeechObjective(learned, inputs.opened, inputs.tables, others, inputs.seed, inputs.terms)
            objective.weights |= {term: w * stage.replay_weight for term, w in objective.replay.weights.items()}
        return objective

    def lengths(self) -> dict[str, list[int]]:
        """Frames by dataset; of a rewarded sentence those that its samples are expected to take, ends included."""
        rewarded = {name: [self.stage.samples * (r.frames + 1) for r in d.rows] for name, d in self.prompts.items()}
        return rewarded | (self.replay.lengths() if self.replay is not None else {})

    def count_labels(self, batch: Sequence[Micro]) -> dict[str, int]:
        """Expected frames of the samples, whatever they turn out to be; labels of what is replayed."""
        rewarded, others = self._parted([i for micro in batch for i in micro])
        expected = sum(i.length for i in rewarded)
        counts = dict.fromkeys(("policy", "divergence"), expected) if expected else {}
        counts = {term: n for term, n in counts.items() if term in self.weights}
        return counts | (self.replay.count_labels([others]) if self.replay is not None else {})

    def begin_step(self, micros: Sequence[Micro], step: int) -> None:
        """Speaks the sentences of a step, unless it is a further update on samples that were spoken before."""
        first = step - (step - 1) % self.stage.updates
        items = self._parted([i for micro in micros for i in micro])[0]
        if self._spoke_at == first and all((i.dataset, i.index) in self._groups for i in items):
            return
        self._spoke_at, self._groups = first, {}
        heard = self._hear(items, first) if items else []
        self._compare_with_reference()
        self._remember_drawn()
        self._report(first, heard)

    def _hear(self, items: list[Item], step: int) -> list[list[Score]]:
        """Speaks sentences and has them scored, by sentence; their groups are remembered."""
        rollouts, n = self._speak(items, step), self.stage.samples
        scores = self.rewarder.score([r for group in rollouts for r in group])
        grouped = [scores[i : i + n] for i in range(0, len(scores), n)]
        for item, samples, heard in zip(items, rollouts, grouped, strict=True):
            rewards = torch.tensor([s.reward for s in heard], dtype=torch.float64)
            self._groups[item.dataset, item.index] = _Group(samples, leave_one_out(rewards).float(), [None] * n, [None] * n)
        return grouped

    def loss_sums(self, micro: Micro, step: int) -> dict[str, torch.Tensor]:
        """Sums of the policy's loss and of the divergence over all codes of the samples, and of what is replayed."""
        rewarded, others = self._parted(micro)
        sums = self.replay.loss_sums(others, step) if others and self.replay is not None else {}
        groups = [self._groups[i.dataset, i.index] for i in rewarded]
        # without a divergence there is nothing to learn from samples that are all worth the same
        groups = [g for g in groups if g.learns or "divergence" in self.weights]
        if groups:
            sums |= self._policy(groups)
        return sums

    def prefetch(self, micro: Micro, step: int) -> None:
        """Lays out what is replayed; samples are spoken when the weights are known."""
        others = self._parted(micro)[1]
        if others and self.replay is not None:
            self.replay.prefetch(others, step)

    def name(self, item: Item) -> str:
        """`DATASET:LINE`."""
        if self.replay is not None and item.dataset not in self.prompts:
            return self.replay.name(item)
        return f"{item.dataset}:{self.prompts[item.dataset].rows[item.index].line}"

    def since(self, step: int) -> dict[str, float]:
        """Mean rewards of the steps since one, and of as many before it."""
        later = [reward for s, reward in self.history if s > step]
        before = [reward for s, reward in self.history if s <= step][-len(later) :] if later else []
        before = before or [reward for _, reward in self.history[:1]]
        return {"reward_before": fmean(before), "reward_since": fmean(later)} if later else {}

    def _parted(self, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """Items that are rewarded, and those that are replayed."""
        return [i for i in items if i.dataset in self.prompts], [i for i in items if i.dataset not in self.prompts]

    # ---- samples

    def _speak(self, items: list[Item], step: int) -> list[list[Rollout]]:
        """Samples of every sentence by the weights as they are. Their random numbers are keyed by the step."""
        spoken = [self._rollout(i, step) for i in items]
        seeds = [_draw(self.seed, step, "samples", i.dataset, r.row.line)[0] for i, r in zip(items, spoken, strict=True)]
        prompts = [self._prompt(r, seed) for r, seed in zip(spoken, seeds, strict=True) for _ in range(self.stage.samples)]
        with self.rewarder.policy(), phases.phase("speaking"):
            codes = generate.generate(self.opened, generate.numbered(prompts), plain(self.stage.temperature))
        generate.release(self.opened)
        codes = [c.clone() for c in codes]  # those of inference mode cannot be read by a pass with gradients
        n = self.stage.samples
        return [[replace(r, codes=c, cut=len(c) >= r.cap) for c in codes[k * n : (k + 1) * n]] for k, r in enumerate(spoken)]

    def _rollout(self, item: Item, step: int) -> Rollout:
        """A sentence that is about to be spoken: its voice and layout are drawn, but always the same at a step."""
        data = self.prompts[item.dataset]
        row = data.rows[item.index]
        coin, voice, kind = _draw(self.seed, step, item.dataset, row.line)
        if row.reference is None:
            voices: list[Path] = sorted(data.x_vectors)
            row = replace(row, reference=voices[voice % len(voices)])
        mixed = self.stage.prompt == "mixed" and kind % 2 == 1
        in_context = row.reference_text is not None and (mixed or self.stage.prompt == "in_context")
        cap = self.rewarder.cap(row, data.language)
        return Rollout(data, row, layout_of(self.stage.layout, row, coin), row.codes[:0], True, cap, in_context)

    def _example(self, rollout: Rollout) -> prompt.Example:
        """A sample as a row that the model reads again."""
        row = replace(rollout.row, codes=rollout.codes, cut=rollout.cut)
        language = self.opened.language_row(rollout.dataset.language)
        kind: PromptKind = "in_context" if rollout.in_context else "x_vector"
        return rollout.dataset.example(row, language, rollout.layout, kind, self.opened.tokenizer)

    def _prompt(self, rollout: Rollout, seed: int) -> generate.Prompt:
        e = self._example(rollout)
        parts = (e.role, e.body, e.language, e.layout, e.x_vector, e.reference_body, e.reference_codes)
        return generate.Prompt(*parts, seed=seed, max_frames=rollout.cap)

    def _report(self, step: int, heard: list[list[Score]]) -> None:
        """Records what the samples of a step, those of all ranks, were worth."""
        groups, scores = list(self._groups.values()), [s for group in heard for s in group]
        rollouts = [r for g in groups for r in g.rollouts]
        sums = {
            "samples": len(scores),
            "groups": len(groups),
            "dropped": sum(not g.learns for g in groups),
            "reward": sum(s.reward for s in scores),
            "spread": sum(float(torch.tensor([s.reward for s in group], dtype=torch.float64).std()) for group in heard),
            "frames": sum(len(r.codes) for r in rollouts),
            "cut": sum(r.cut for r in rollouts),
        }
        parts = {name: sum(s.values[name] for s in scores) for name in (scores[0].values if scores else ())}
        answers = self.opened.world.exchange([sums, parts], "hearing samples")
        total = {name: sum(answer[0][name] for answer in answers) for name in sums}
        n = total["samples"]
        if not n:
            return
        self.history.append((step, total["reward"] / n))
        fields: dict[str, Any] = {name: total[name] / n for name in ("reward", "frames", "cut")}
        fields |= {"spread": total["spread"] / total["groups"], "groups": total["groups"], "dropped": total["dropped"]}
        named = [answer[1] for answer in answers if answer[1]]
        fields["parts"] = {name: sum(values[name] for values in named) / n for name in named[0]}
        self.rewarder.report(step, fields)

    # ---- likelihoods

    def _log_probs(self, rollouts: Sequence[Rollout], tables: forward.Tables) -> list[LogProbs]:
        """Of every sample by itself, by the weights in the modules."""
        batch = prompt.collate([self._example(r) for r in rollouts], self.ids).to(self.opened.device)
        wanted = {f"with_{term}": term in self.terms for term in ("talker", "predictor")}
        logits = forward.speech_logits(tables, batch, self.opened.compute_dtype, **wanted)
        labels = [r.labels for r in rollouts]
        whole = log_probs(logits, batch, labels, self.ids.eos, self.stage.temperature)
        parts = [
            [None] * len(rollouts) if values is None else list(torch.split(values, sizes))
            for values, sizes in ((whole.talker, labels), (whole.predictor, [len(r.codes) for r in rollouts]))
        ]
        return [LogProbs(t, p) for t, p in zip(*parts, strict=True)]

    @torch.no_grad()
    def _read_again(self, tables: forward.Tables) -> dict[tuple[str, int], list[LogProbs]]:
        """Log-probabilities of all samples without gradients, by group."""
        rollouts = [r for g in self._groups.values() for r in g.rollouts]
        read: list[LogProbs] = []
        for start in range(0, len(rollouts), READ_AT_ONCE):
            with self.opened.autocast():
                read += [p.detach() for p in self._log_probs(rollouts[start : start + READ_AT_ONCE], tables)]
        n = self.stage.samples
        return {key: read[k * n : (k + 1) * n] for k, key in enumerate(self._groups)}

    def _compare_with_reference(self) -> None:
        if "divergence" in self.weights:
            with self.rewarder.reference():
                read = self._read_again(forward.Tables(self.opened.talker))
            self._groups = {key: replace(g, references=read[key]) for key, g in self._groups.items()}

    def _remember_drawn(self) -> None:
        if self.stage.updates > 1:
            read = self._read_again(self.tables)
            self._groups = {key: replace(g, drawn=read[key]) for key, g in self._groups.items()}

    def _policy(self, groups: list[_Group]) -> dict[str, torch.Tensor]:
        """Sums over all codes of the samples of these groups."""
        rollouts = [r for g in groups for r in g.rollouts]
        now = self._log_probs(rollouts, self.tables)
        drawn, references = [d for g in groups for d in g.drawn], [r for g in groups for r in g.references]
        advantages = torch.cat([g.advantages for g in groups]).tolist()
        policy, divergences = [], []
        for sample, before, reference, advantage in zip(now, drawn, references, advantages, strict=True):
            for term in self.terms:
                mine = getattr(sample, term)
                old = mine.detach() if before is None else getattr(before, term)
                policy.append(-clipped_gain(mine, old, advantage, self.stage.clip_ratio).sum())
                if reference is not None:
                    divergences.append(divergence(mine, getattr(reference, term)).sum())
        sums = {"policy": torch.stack(policy).sum()}
        return sums | ({"divergence": torch.stack(divergences).sum()} if divergences else {})

    # ---- resuming

    def state(self) -> dict[str, torch.Tensor]:
        """Samples that a further update reads, and the rewards of the steps so far."""
        state = {"history": torch.tensor(self.history, dtype=torch.float64)} if self.history else {}
        if self.stage.updates == 1 or not self._groups:
            return state
        names = sorted(self.prompts)
        state["spoke_at"] = torch.tensor(self._spoke_at)
        for k, ((dataset, index), group) in enumerate(self._groups.items()):
            state[f"{k}.item"] = torch.tensor([names.index(dataset), index])
            state[f"{k}.advantages"] = group.advantages
            for j, rollout in enumerate(group.rollouts):
                state[f"{k}.{j}.codes"] = rollout.codes
                for kind, read in (("reference", group.references[j]), ("drawn", group.drawn[j])):
                    for term in self.terms if read is not None else ():
                        state[f"{k}.{j}.{kind}.{term}"] = getattr(read, term).clone()  # of its own storage
        return state

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over the tensors of `state`."""
        self.history = [(int(step), reward) for step, reward in state["history"].tolist()] if "history" in state else []
        self._groups, names = {}, sorted(self.prompts)
        self._spoke_at = int(state["spoke_at"]) if "spoke_at" in state else 0
        device = self.opened.device
        for k in range(sum(key.endswith(".item") for key in state)):
            dataset, index = state[f"{k}.item"].tolist()
            item = Item(names[dataset], index, 0)
            spoken = self._rollout(item, self._spoke_at)
            codes = [state[f"{k}.{j}.codes"] for j in range(self.stage.samples)]
            rollouts = [replace(spoken, codes=c, cut=len(c) >= spoken.cap) for c in codes]

            def read(kind: str, k: int = k) -> list[LogProbs | None]:
                parts = [[state.get(f"{k}.{j}.{kind}.{t}") for t in ("talker", "predictor")] for j in range(self.stage.samples)]
                moved = [[None if t is None else t.to(device) for t in part] for part in parts]
                return [LogProbs(*part) if any(t is not None for t in part) else None for part in moved]

            self._groups[item.dataset, index] = _Group(rollouts, state[f"{k}.advantages"], read("reference"), read("drawn"))


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards of a group, [n], less the mean of the others of each: [n], arXiv:2402.14740."""
    n = len(rewards)
    return rewards - (rewards.sum() - rewards) / (n - 1)


def clipped_gain(now: torch.Tensor, drawn: torch.Tensor, advantage: float, clip: float) -> torch.Tensor:
    """PPO's surrogate of every code, arXiv:1707.06347: log-probabilities now and when drawn, [n] each -> [n]."""
    ratio = (now - drawn).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def divergence(now: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """GRPO's estimate of the divergence from the reference at every code, never negative: [n] each -> [n], nats."""
    log_ratio = reference - now
    return log_ratio.exp() - log_ratio - 1.0


def _draw(*key: object) -> tuple[int, int, int]:
    """Three numbers that a key always gives."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1, digest[4], digest[5]
