"""Recording of decode steps and the inputs of a recording, on the CPU, with a recorder that computes again."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from backends.torch.cuda.graphs import BUCKETS, DecodeGraphs, GraphBody, bucket_of, is_decode
from backends.torch.cuda.inputs import DeviceStep
from tests.backends.torch.cuda.drive import CONTEXT, Part, plan, step_of

CPU = torch.device("cpu")


class Recorder:
    """Counts; a replay computes again into the tensor of the first time."""

    def __init__(self) -> None:
        self.num_recordings = self.num_replays = 0

    def __call__(self, body: GraphBody) -> tuple[Tensor, Callable[[], object]]:
        self.num_recordings += 1
        output = body()

        def replay() -> None:
            self.num_replays += 1
            output.copy_(body())

        return output, replay


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def graphs(recorder: Recorder) -> DecodeGraphs:
    return DecodeGraphs(_body, recorder, plan(), max_context=CONTEXT, device=CPU)


def _body(inputs: DeviceStep) -> Tensor:
    """`[rows, 4]`: what a decode step of the row would read first."""
    first_block = inputs.table_columns[0]
    return torch.stack((inputs.token_ids, inputs.positions, inputs.kv_len, first_block), dim=1)


def _run(graphs: DecodeGraphs, *tokens: int, start: int = 3) -> list[list[int]]:
    """Token, position and length of each row."""
    logits = graphs.run(step_of(*(Part(slot, [token], start=start) for slot, token in enumerate(tokens))))
    assert logits is not None
    return [row[:3] for row in logits.tolist()]


def test_buckets() -> None:
    """The smallest that holds the rows; beyond the largest there is none."""
    chosen = [bucket_of(rows) for rows in (1, 3, 8, 9, 33, 256, 257)]

    assert chosen == [1, 4, 8, 16, 48, 256, None]
    assert list(BUCKETS) == sorted(set(BUCKETS))


def test_only_decode_steps_are_recorded() -> None:
    """One token and one row of logits a sequence, and no adapter."""
    decode = step_of(Part(0, [1], start=5), Part(1, [2]))

    assert is_decode(decode)
    assert not is_decode(step_of(Part(0, [1, 2]), Part(1, [2])))
    assert not is_decode(step_of(Part(0, [1], rows=0), Part(1, [2])))
    assert not is_decode(msgspec.structs.replace(decode, lora=np.array([-1, 0], np.int32)))


def test_the_first_use_is_eager_the_second_recorded(graphs: DecodeGraphs, recorder: Recorder) -> None:
    """The first use is computed eagerly, so a first token does not wait for a recording; from the second on, steps are
    replays.
    """
    answers = [_run(graphs, 7, 8, start=start) for start in range(3, 7)]

    assert answers == [[[7, start, start + 1], [8, start, start + 1]] for start in range(3, 7)]
    assert (recorder.num_recordings, recorder.num_replays) == (1, 3)
    assert graphs.recorded == (2,)


def test_sizes_of_one_bucket_share_a_recording(graphs: DecodeGraphs, recorder: Recorder) -> None:
    """Three and four rows are both a bucket of four, and each gets as many rows as it brought."""
    three, four = _run(graphs, 1, 2, 3), _run(graphs, 4, 5, 6, 7)

    assert [row[0] for row in three] == [1, 2, 3]
    assert [row[0] for row in four] == [4, 5, 6, 7]
    assert recorder.num_recordings == 1


def test_recording_ahead(graphs: DecodeGraphs, recorder: Recorder) -> None:
    """Every bucket is recorded at warm-up; the first step is a replay already."""
    graphs.record((1, 2, 4))

    answer = _run(graphs, 9)

    assert graphs.recorded == (1, 2, 4)
    assert answer == [[9, 3, 4]]
    assert (recorder.num_recordings, recorder.num_replays) == (3, 1)


def test_padding_is_what_a_recording_is_made_of(recorder: Recorder) -> None:
    """A recording ahead of any step sees padding sequences only, which hold no key and write nowhere."""
    seen: list[DeviceStep] = []

    def body(inputs: DeviceStep) -> Tensor:
        seen.append(inputs)
        return _body(inputs)

    graphs = DecodeGraphs(body, recorder, plan(), max_context=CONTEXT, device=CPU)

    graphs.record((4,))

    assert all(inputs.kv_len.tolist() == [0] * 4 for inputs in seen)
    assert all(inputs.slot_map.tolist() == [-1] * 4 for inputs in seen)


def test_other_steps_are_left_to_others(graphs: DecodeGraphs) -> None:
    """A chunk, or more rows than the largest bucket has, is no bucket's."""
    assert graphs.run(step_of(Part(0, [1, 2, 3]))) is None


def test_picked_tokens_reach_the_recording(graphs: DecodeGraphs) -> None:
    """The ids that the step before picked are put in before a replay reads them."""
    graphs.record((2,))

    logits = graphs.run(step_of(Part(0, [-2], start=4), Part(1, [-1], start=4)), torch.tensor([50, 60]))

    assert logits is not None
    assert logits[:, 0].tolist() == [60, 50]
