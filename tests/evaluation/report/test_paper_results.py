"""The paper's table is complete and has exactly the contradiction that the caveats name."""

from __future__ import annotations

from mllm_msr.evaluation.report.paper_results import CAVEATS, METRICS, TABLE_3


def test_every_data_set_has_the_same_eleven_models():
    models = [set(rows) for rows in TABLE_3.values()]
    assert all(names == models[0] for names in models)
    assert len(models[0]) == 11


def test_only_the_cell_in_the_caveats_contradicts_itself():
    at_hr, at_mrr = METRICS.index("hr@5"), METRICS.index("mrr@5")
    contradictions = [
        (data, model)
        for data, rows in TABLE_3.items()
        for model, values in rows.items()
        if values[at_hr] < values[at_mrr]
    ]
    assert contradictions == [("Amazon Baby", "Trans2D")]
    assert any("Trans2D on Amazon Baby" in caveat for caveat in CAVEATS)


def test_a_popularity_count_is_above_five_microlens_rows():
    counted = (76.0, 58.8, 34.4)
    below = [
        model
        for model, values in TABLE_3["MicroLens"].items()
        if all(own > other for own, other in zip(counted, values, strict=True))
    ]
    assert sorted(below) == ["GRU4Rec", "LLaVA", "MGAT", "MMGCN", "Trans2D"]
