import torch

from mllm_msr.embedded.batches import CURRICULUM, LABELS, family_at, training_batch
from mllm_msr.embedded.corpus import FAMILIES


def batch(run, step):
    return training_batch(
        step, seed=run.seed, pool=run.pool, covers=run.covers, tokenizer=run.tokenizer,
        n_tokens=600,
    )  # fmt: skip


def test_a_batch_is_a_function_of_seed_and_step(tiny_run, tmp_path):
    run = tiny_run(tmp_path)
    for step in (0, 1, 5, 2000):
        first, second = batch(run, step), batch(run, step)
        assert first.family == second.family
        assert torch.equal(first.input_ids, second.input_ids)
        assert (first.pixels is None) == (second.pixels is None)
        if first.pixels is not None:
            assert torch.equal(first.pixels, second.pixels)


def test_answers_alone_are_learnt_and_padding_never(tiny_run, tmp_path):
    run = tiny_run(tmp_path)
    made = next(b for b in (batch(run, s) for s in range(50)) if b.family == "fusion")
    assert not made.learn[made.input_ids == 0].any()
    said = run.tokenizer.decode(made.input_ids[0][made.learn[0]])
    assert ", showing " in said
    assert said.endswith("<|end|>")
    assert "Join both" not in said


def test_every_family_is_trained_in_the_end_and_simple_ones_come_first():
    assert set(CURRICULUM[-1][1]) == {LABELS, *FAMILIES}
    assert "preference_update" not in CURRICULUM[0][1]
    seen = {family_at(step, seed=1_000_000) for step in range(1800, 2200)}
    assert seen == {LABELS, *FAMILIES}
