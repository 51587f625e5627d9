"""Hybrid: weights learned on held-out targets, members of any kind, saving and loading."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines.hybrid import Hybrid
from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.errors import (
    DamagedFileError,
    SettingsError,
    TrainingError,
    UnknownNameError,
)
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS

MEMBERS = ("item_knn", "popularity")
N_USERS, N_ITEMS, N_STEPS = 40, 16, 6


@pytest.fixture(scope="module")
def data():
    """Users of two tastes; half of them are validation users whose last item is hidden."""
    rng = np.random.default_rng(0)
    rows, lists = [], []
    for user in range(N_USERS):
        own = [f"i{at}" for at in range(N_ITEMS) if at % 2 == user % 2]
        chosen = rng.choice(own, N_STEPS, replace=False)
        hidden = user >= N_USERS // 2
        rows += [(f"u{user}", item, at, at) for at, item in enumerate(chosen[: N_STEPS - hidden])]
        if hidden:
            others = [f"i{at}" for at in range(N_ITEMS) if at % 2 != user % 2]
            listed = [(chosen[-1], 1), *((other, 0) for other in others[:4])]
            lists += [
                (0, "validation", "uniform", f"u{user}", N_STEPS - 1, item, label)
                for item, label in listed
            ]
    items = [(f"i{at}", f"film {at}", "", None) for at in range(N_ITEMS)]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=pl.DataFrame(lists, schema=dict(CANDIDATES), orient="row"),
        train_users=frozenset(f"u{user}" for user in range(N_USERS // 2)),
    )


@pytest.mark.parametrize("max_targets", [2000, 0])
def test_the_informative_member_has_the_larger_weight(data, max_targets):
    model = Hybrid(members=MEMBERS, max_targets=max_targets).fit(data)
    assert model.stacking is not None
    likelihoods, shares = model.stacking.likelihoods, model.stacking.shares()
    assert likelihoods["item_knn"] > likelihoods["popularity"]
    assert shares["item_knn"] > shares["popularity"]
    # Half of the training users, or the validation users.
    assert model.stacking.n_targets == (N_USERS // 4 if max_targets else N_USERS // 2)


def test_without_targets_members_have_equal_weights(data):
    no_validation = TrainingData(
        data.interactions,
        data.items,
        data.candidates.with_columns(split=pl.lit("train")),
        data.train_users,
    )
    model = Hybrid(members=MEMBERS, max_targets=0).fit(no_validation)
    assert model.stacking is not None
    assert model.stacking.shares() == {"item_knn": 0.5, "popularity": 0.5}
    # Held-out targets do not need validation users.
    model = Hybrid(members=MEMBERS).fit(no_validation)
    assert model.stacking is not None
    assert model.stacking.n_targets > 0


def test_catalog_scores_equal_candidate_scores(data):
    model = Hybrid(members=(*MEMBERS, "content_knn")).fit(data)
    users = pl.DataFrame({"user_id": ["u30", "unknown"], "position": [5, 0]})
    ((chunk, scores),) = model.score_catalog(users, data.interactions)
    assert chunk.equals(users)
    items = pl.DataFrame({"item_id": model.catalog})
    crossed = users.join(items, how="cross")
    one_by_one = model.score(crossed, data.interactions)["score"].to_numpy().reshape(2, -1)
    assert np.allclose(scores, one_by_one, atol=1e-5)


def test_members_given_as_recommenders_keep_their_settings(data):
    members = {"item_knn": ItemKnn(prior=0.25), "popularity": Popularity()}
    by_object = Hybrid(members=members).fit(data)
    assert by_object.stacking != Hybrid(members=MEMBERS).fit(data).stacking


def test_fitted_members_are_not_fitted_again(data, monkeypatch):
    members = {"item_knn": ItemKnn().fit(data), "popularity": Popularity().fit(data)}
    expected = Hybrid(members=MEMBERS).fit(data).stacking
    copies = []

    def fit_copy(name, hidden):
        copies.append(name)
        return {"item_knn": ItemKnn, "popularity": Popularity}[name]().fit(hidden)

    for name, member in members.items():
        monkeypatch.setattr(member, "fit", lambda data, name=name: pytest.fail(f"fitted {name}"))
    assert Hybrid(members=members, fit_copy=fit_copy).fit(data).stacking == expected
    assert copies == list(MEMBERS)


class Recorder(Recommender):
    """Fake of a recommender that records what it has learned from and what it has scored."""

    label = "Recorder"

    def __init__(self):
        self.seen = []
        self.scored = []

    def fit(self, data):
        self.seen.append(data)
        return self

    def score(self, candidates, interactions):
        self.scored.append((len(self.seen), candidates))
        return candidates.with_columns(score=pl.lit(0.0))

    def save(self, folder):
        raise NotImplementedError

    @classmethod
    def load(cls, folder):
        raise NotImplementedError


class Reader(Recorder):
    """Fake of a fine-tuned language model, which reads all histories."""

    def complete_histories(self, targets):
        return targets


def test_copies_have_not_learned_from_the_targets_that_they_score(data):
    recorder = Recorder()
    Hybrid(members={"recorder": recorder, "item_knn": ItemKnn()}).fit(data)
    hidden, everything = recorder.seen
    assert everything is data
    (_, lists), (_, unseen) = recorder.scored
    keys = ["user_id", "position"]
    targets = lists.filter(label=1)
    assert targets.join(hidden.interactions, on=keys).is_empty()
    assert targets.join(data.interactions, on=[*keys, "item_id"], how="semi").height == len(targets)
    assert not hidden.train_users & set(targets["user_id"])
    # Validation users stay as they are: copies select their weights on them, as members do.
    validation = data.candidates.filter(split="validation")
    assert hidden.candidates.filter(split="validation").equals(validation)
    assert unseen.equals(validation)


def test_a_member_that_learns_from_candidates_is_measured_without_a_copy():
    data, _, _ = halves(informative=True)
    reader, recorder = Reader(), Recorder()
    Hybrid(members={"reader": reader, "recorder": recorder}).fit(data)
    assert reader.seen == [data]
    ((n_fits, lists),) = reader.scored
    assert n_fits == 1
    copied = recorder.scored[0][1]
    assert lists.join(copied, on=lists.columns, how="semi").equals(lists)
    assert lists.height < copied.height
    assert not set(lists["user_id"]) & data.train_users
    assert not set(lists["user_id"]) & set(data.candidates.filter(split="validation")["user_id"])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("item_knn",), r"members must be two or more distinct names, but is \['item_knn'\]"),
        (("item_knn", "item_knn"), r"two or more distinct names"),
        (("item_knn", "hybrid"), r"members must not contain 'hybrid'"),
    ],
)
def test_invalid_members_are_rejected(members, message):
    with pytest.raises(SettingsError, match=message):
        Hybrid(members=members)


class Oracle(Recommender):
    """Fake of a recommender of another kind, such as MLLM-MSR, that scores pairs from a table."""

    label = "Oracle"
    requires_llm = True

    def __init__(self, scores):
        self.scores = scores

    def fit(self, data):
        return self

    def score(self, candidates, interactions):
        keys = ["user_id", "item_id"]
        table = self.scores.select(*keys, "score")
        return candidates.join(table, on=keys, how="left", maintain_order="left")

    def usage(self):
        return {"misses": 3}

    def save(self, folder):
        folder.mkdir(parents=True)

    @classmethod
    def load(cls, folder):
        raise NotImplementedError


def halves(*, informative: bool):
    """Make data in which neighbors predict even users, and an oracle predicts odd users.

    Returns:
        The training data, test candidates, and scores of the oracle; without `informative` the
        oracle's scores are noise.
    """
    rng = np.random.default_rng(1)
    rows, lists = [], []
    for user in range(240):
        tastes = [[at for at in range(24) if at % 3 == user % 3], range(24)]
        chosen = rng.choice(tastes[user % 2], 6, replace=False)
        split = ("train", "validation", "test")[user // 6 % 3]
        visible = chosen if split == "train" else chosen[:-1]
        rows += [(f"u{user}", f"i{item}", at, at) for at, item in enumerate(visible)]
        others = rng.choice(np.setdiff1d(range(24), chosen), 8, replace=False)
        lists += [
            (0, split, "uniform", f"u{user}", 5, f"i{item}", int(item == chosen[-1]))
            for item in [chosen[-1], *others]
        ]
    items = [(f"i{at}", f"film {at}", "", None) for at in range(24)]
    candidates = pl.DataFrame(lists, schema=dict(CANDIDATES), orient="row")
    odd = pl.col("user_id").str.slice(1).cast(pl.Int64) % 2 == 1
    known = odd & (pl.col("label") == 1) & informative
    noise = pl.Series(rng.normal(size=candidates.height))
    scores = candidates.with_columns(score=4.0 * known.cast(pl.Float64) + noise)
    data = TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=candidates.filter(pl.col("split") != "test"),
        train_users=frozenset(candidates.filter(pl.col("split") == "train")["user_id"]),
    )
    test = candidates.filter(pl.col("split") == "test")
    return data, test, scores.drop("label")


def with_oracle(scores):
    members = {"item_knn": ItemKnn(), "popularity": Popularity(), "oracle": Oracle(scores)}
    # The oracle only knows the candidates of the data, so there are no other targets.
    return Hybrid(members=members, max_targets=0)


def auc(scored):
    positive = pl.col("score").filter(pl.col("label") == 1).first()
    wins = (positive > pl.col("score").filter(pl.col("label") == 0)).mean()
    return scored.group_by("user_id").agg(wins.alias("auc"))["auc"].mean()


def test_complementary_members_add_up():
    data, test, scores = halves(informative=True)
    alone = [
        auc(Hybrid(members=MEMBERS).fit(data).score(test, data.interactions)),
        auc(Oracle(scores).score(test, data.interactions)),
    ]
    model = with_oracle(scores).fit(data)
    combined = auc(model.score(test, data.interactions))
    assert min(alone) > 0.6
    assert combined > max(alone) + 0.05
    assert model.stacking is not None
    assert min(model.stacking.shares().values()) < 0.2 < model.stacking.shares()["oracle"]
    assert model.requires_llm
    assert model.usage() == {"misses": 3}


def test_a_noise_member_does_not_lower_the_auc():
    data, test, scores = halves(informative=False)
    alone = auc(Hybrid(members=MEMBERS).fit(data).score(test, data.interactions))
    combined = with_oracle(scores).fit(data).score(test, data.interactions)
    assert auc(Oracle(scores).score(test, data.interactions)) < 0.55 < alone
    assert auc(combined) > alone - 0.02


def test_scores_of_test_users_are_not_learned_from():
    data, test, scores = halves(informative=True)
    tested = pl.col("user_id").is_in(test["user_id"].unique().to_list())
    changed = scores.with_columns(score=pl.when(tested).then(0.0).otherwise("score"))
    fitted = [with_oracle(each).fit(data).stacking for each in (scores, changed)]
    assert fitted[0] == fitted[1]


def test_a_candidate_that_a_member_cannot_score_has_no_score():
    data, test, scores = halves(informative=True)
    failed = pl.col("item_id") == "i3"
    model = with_oracle(scores.with_columns(score=pl.when(~failed).then("score"))).fit(data)
    found = model.score(test, data.interactions)
    assert found["score"].is_null().to_list() == test.select(failed).to_series().to_list()
    assert found["score"].drop_nulls().is_finite().all()
    assert (
        auc(found.drop_nulls("score").filter(pl.col("label").n_unique().over("user_id") == 2)) > 0.8
    )


def test_unknown_members_are_rejected():
    with pytest.raises(UnknownNameError, match="Did you mean 'item_knn'"):
        Hybrid(members=("item_knn", "item_knm"))


def test_saving_and_loading(data, tmp_path):
    with pytest.raises(TrainingError, match="hybrid"):
        Hybrid(members=MEMBERS).save(tmp_path)
    model = Hybrid(members=MEMBERS).fit(data)
    model.save(tmp_path)
    candidates = data.candidates.drop("label")
    expected = model.score(candidates, data.interactions)
    assert Hybrid.load(tmp_path).score(candidates, data.interactions).equals(expected)
    (tmp_path / "hybrid.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=str(tmp_path)):
        Hybrid.load(tmp_path)
