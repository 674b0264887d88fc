"""`stages`: what trains, on what, towards which objective, and what must hold afterwards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qrecipe.qwen3 import Layout, PromptKind
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate, Select
from qrecipe.recipe.model import Identifier, Positive, Settings, Share, one_of, schema_of_one

Moments = Literal["float32", "8bit"]
Masters = Literal["float32", "bfloat16"]


class Lora(Settings):
    """Low-rank adaptation: W + alpha / rank * B A, with A of rank x inputs and B of outputs x rank."""

    rank: Annotated[int, Field(ge=1, le=1024)]
    """Rank of the deltas. Each linear layer trains rank x (inputs + outputs) numbers; 8 to 64 is usual."""
    alpha: Positive
    """Scale: deltas are multiplied by alpha / rank, so that a rate stays fit when the rank changes. One to two times the rank is usual."""


class Train(Settings):
    """One group of parameters that learns, with its own learning rate."""

    match: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1, max_length=100)]
    """Glob or list of globs over module and parameter names, rooted at the model. `*` stays within a segment; `layers.24-27` is a range; a module stands for everything in it."""
    except_: Annotated[list[str], Field(alias="except")] = []
    """Globs of what to take away again; default: nothing. Each must take something away, so that a misspelled one is noticed."""
    rows: Literal["seen", "languages"] | Annotated[list[int], Field(min_length=1)] | None = None
    """Rows of an embedding table: `seen` (tokens of this stage's texts in the recipe's own languages), `languages` (the recipe's language rows), or row numbers. Every other row stays bit-identical."""
    lr: Positive
    """Peak learning rate of AdamW, before `warmup` and `schedule`. Users report 2e-6 to 1e-5 for the talker's layers, 3e-5 to 1e-4 for the text projection and rows; `lora` takes some twenty times more. A rate far outside is a warning."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW. 0 because decay pulls a pretrained weight towards zero, not towards where it was."""
    lora: Lora | None = None
    """Learn low-rank deltas of the linear layers that the entry selects, merged into their weights when the stage ends; norms and biases that it selects stand still. Never on embedding tables. Saves memory where whole layers would train."""

    @property
    def patterns(self) -> list[str]:
        """`match` as a list."""
        return [self.match] if isinstance(self.match, str) else list(self.match)


SELF = "self"
"""Name of the untouched base in `use`."""


class Use(Settings):
    """A dataset with its share of a stage's data."""

    use: Annotated[str, Field(min_length=1)]
    """The dataset; or `self`: what the untouched base itself says, so that it forgets nothing without any recordings. Text in a language of the base means the same: the base speaks it."""
    language: Annotated[str, Field(min_length=1)] | None = None
    """With `use: self`: the language of the base that it speaks. The sentences are those of the recipe's text dataset in this language."""
    text: Annotated[str, Field(min_length=1)] | None = None
    """With `use: self`: the text dataset, where several are in this language."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the trained frames (text tokens in `text_lm` and `embedding_match`), between 0 and 1; default: none, and datasets without a share divide the rest by their size. For replay: a share holds however much of it there is."""

    @property
    def is_self(self) -> bool:
        """Whether the base itself speaks the sentences."""
        return self.use == SELF

    @property
    def dataset(self) -> str:
        """The dataset that is read."""
        return self.text or self.use if self.is_self else self.use

    @property
    def name(self) -> str:
        """Name that is unique within a stage: the dataset, or `self-LANGUAGE`."""
        return f"{SELF}-{self.language}" if self.is_self else self.use


class Batch(Settings):
    """How much is learned from in one optimiser step."""

    frames: Annotated[int, Field(ge=1)] = 2000
    """Codec frames, 12.5 a second, in one micro-batch at most (`text_lm`, `embedding_match`: text tokens). One row that is longer makes a micro-batch of its own. 2000 is 160 seconds of speech; what does not fit a GPU is split without changing the result."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches to one optimiser step. Raise it for steadier steps where memory keeps `frames` low: losses are sums divided by the labels of all of them, so half of `frames` and twice of this is the same step."""


class _Stage(Settings):
    model_config = schema_of_one("epochs", "steps")

    id: Identifier
    """Name of the stage, at most 63 characters; stages of a template are merged by it, and `runs/NAME@STAGE` names its result."""
    data: Annotated[list[Annotated[str, Field(min_length=1)] | Use], Field(min_length=1, max_length=100)]
    """Datasets that the stage learns from, by key; with `{use, share}` for a fixed share."""
    train: Annotated[list[Train], Field(min_length=1, max_length=100)]
    """The trainable parts, an entry for each learning rate. Everything else is proven bit-identical afterwards."""
    epochs: Positive | None = None
    """Passes over the stage's own data (the datasets without a `share`); may be a fraction. Give either `epochs`, which grows with the data, or `steps`."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps, whatever the data's size. Give either `epochs` or `steps`."""
    batch: Batch = Batch()
    """How much is learned from in one optimiser step."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises from zero, since AdamW's first steps rest on few gradients. 0 is none."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """The learning rate after the warm-up: constant, or falling to zero at the last step along a line or half a cosine. Falling, so that the last steps settle; `constant` suits `select` with `patience`, where the end is not known."""
    clip: Positive = 1.0
    """Largest norm of the gradient over everything that trains; a larger one is scaled down, so that one odd row does not undo what was learned."""
    moments: Moments = "float32"
    """AdamW's two moments of weights of linear layers that train themselves. `8bit` takes a quarter of the memory, in blocks of 256 numbers with a scale each, and needs `pip install 'qrecipe[8bit]'`. Losses differ a little; of other weights the moments stay float32. For a small card (docs/scale.md)."""
    masters: Masters = "float32"
    """Weights of linear layers that train themselves, as the optimiser adds to them. With `bfloat16` they are what the model computes with, so that no wider copy is kept, and gradients are bfloat16 too: 6 bytes less for each number. Every step is rounded up or down at random, right in the mean. Losses differ a little. For a small card (docs/scale.md)."""
    compile: Literal["auto", "off"] = "auto"
    """Whether torch compiles what stands between matrix products, on a GPU where a compiler works: the first step takes longer, every other less time and memory. `off` is for looking for faults. A CPU compiles nothing."""
    select: Select | None = None
    """Keep the best step on held-out data; default: the last step. Little data overfits long before its epochs are over."""
    gates: Annotated[list[Gate], Field(max_length=200)] = []
    """Conditions that the model must meet after the stage; default: none, and then the stage counts as passed."""
    on_pass: Literal["continue", "finish"] = "continue"
    """When all gates pass: continue with the next stage, or finish the run and skip the later stages, which then cannot damage what is good enough."""
    on_fail: Literal["continue", "revert", "stop"] = "stop"
    """Otherwise: keep the stage and continue, drop its result and continue, or end the run with exit code 3. `stop`, because hours of later stages on a bad one are lost."""

    @property
    def uses(self) -> list[Use]:
        """`data` with plain names written as `Use`."""
        return [Use(use=d) if isinstance(d, str) else d for d in self.data]

    @model_validator(mode="after")
    def _length(self) -> _Stage:
        one_of("epochs", self.epochs, "steps", self.steps)
        return self


class SpokenStage(_Stage):
    """Settings of stages that learn frames, whoever spoke them."""

    layout: Literal[Layout, "mixed"] = "mixed"
    """How text meets frames: one token a frame (the default of `generate_voice_clone`), all text first, or half of the rows each, so that the language is learned for both."""
    prompt: Literal[PromptKind, "mixed"] = "x_vector"
    """How the voice is given: its x-vector alone, which needs nothing more and keeps rows short, or the reference's text and codes as well (needs `reference_text`), as `generate_voice_clone` does by default."""
    predictor_weight: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the predictor's cross-entropy (mean over its codebooks) beside the talker's. Below 1, because code 0 carries the words; 0 where only the talker shall decide."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the divergence from the base's own distribution of code 0, at frames that the base spoke (`respell`, `{use: self}`). 0 learns its codes alone."""


class SpeechStage(SpokenStage):
    """Learns from recordings: the talker's cross-entropy on codebook 0 and the predictor's on the others."""

    objective: Literal["speech"]
    """Learn from recordings and their transcripts."""


class RespellStage(SpokenStage):
    """Learns to read from text alone: the untouched base reads each sentence respelled for a language that it knows, and the native spelling under the new language's row learns what it said."""

    objective: Literal["respell"]
    """Learn what the base says when a sentence is respelled for it; needs `languages.NAME.respelling`. Reads text, and recordings or `{use: self}` for replay."""


class Reward(Settings):
    """A part of what a sample is rewarded for."""

    metric: Annotated[str, Field(min_length=1)]
    """A metric of generated speech; [the table of metrics](#metrics) says what of it is the reward, a number between 0 and 1."""
    weight: Positive = 1.0
    """Its share of the reward, which is the weighted mean of all parts."""


class RewardStage(SpokenStage):
    """Learns from what is heard: the model speaks each sentence several times, and what scores above the others becomes likelier."""

    objective: Literal["reward"]
    """Policy gradient over groups of samples (docs/ear.md). Sentences in the recipe's own languages are rewarded, be they text or transcripts; data in a language of the base is replayed as `speech` does."""
    reward: Annotated[list[Reward], Field(min_length=1, max_length=20)]
    """Metrics that are rewarded. A judge that hears otherwise belongs into `select` and the gates: what is rewarded rises whether speech gets better or not."""
    samples: Annotated[int, Field(ge=2, le=256)] = 8
    """Samples of each sentence and step, in one voice and layout. They are compared with each other, so more make steadier gradients and cost as much more."""
    temperature: Positive = 1.0
    """Of the sampling. Nothing else shapes it: no top-k, no penalty, so that the log-probabilities are those of what was drawn. Other than 1 they are of the tempered distribution."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the divergence from `kl_to`, nats a frame, beside a reward of 0 to 1. It keeps the model near what speaks already; 0 lets it go wherever the reward is."""
    kl_to: Literal["previous", "base"] = "previous"
    """Weights that the divergence is taken from: the weights before this stage, or the base with the new rows at their init."""
    clip_ratio: Positive = 0.2
    """How far the probability of a code may move from where it was drawn, as a share, before more of it is no gain. Matters from the second of the `updates` on."""
    updates: Annotated[int, Field(ge=1, le=16)] = 1
    """Optimiser steps on the same samples. Speaking and listening take most of a step's time; beyond a few, samples no longer say what the model does now."""
    replay_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of what replayed rows learn, beside the reward."""
    evaluators: Evaluators | None = None
    """Models that listen for the reward; default: the recipe's. Others here leave those of the recipe to judge what nobody was rewarded for."""


class TextLmStage(_Stage):
    """Learns rows of the text embedding from text alone, through the frozen talker. It cannot teach a language row."""

    objective: Literal["text_lm"]
    """Next-token prediction over the seen rows through the frozen talker and a temporary linear map."""
    fit_steps: Annotated[int, Field(ge=1)] = 100
    """Steps that fit the temporary map from hidden to text space with the embedding fixed, before `steps` or `epochs`; it is thrown away afterwards. Without it the rows would learn what the map does not know yet."""
    fit_lr: Positive = 1.0e-3
    """Learning rate of that map, AdamW's. High, because the map starts at random and nothing is lost with it."""
    anchor: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the pull back to the base's rows, beside nats per token: mean squared distance over the mean squared norm of a base row. It keeps rows where `text_projection` can read them; 0 lets them go."""


class EmbeddingMatchStage(_Stage):
    """A cheap warm start from text alone: the projected embedding of every native word moves towards that of the respelled word. Nothing is spoken."""

    objective: Literal["embedding_match"]
    """Regression of words' mean projected embeddings onto those of their respellings; needs `languages.NAME.respelling`."""
    anchor: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the pull back to what each word's own embedding was: mean squared distance over the mean squared norm of the targets. 0 because the targets lie in the same space."""


Stage = Annotated[SpeechStage | TextLmStage | RespellStage | EmbeddingMatchStage | RewardStage, Field(discriminator="objective")]
