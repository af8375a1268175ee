"""What changes of acquisition cost, from predictions alone."""

import numpy as np
import pandas as pd
import prediction_tables
import pytest

from tlutils.evaluation import robustness
from tlutils.evaluation.comparison import paired_bootstrap
from tlutils.evaluation.metrics import compute_metrics

BINARY = prediction_tables.binary()
FOUR = prediction_tables.drawn(split="val")


def under(table: pd.DataFrame, **changes: pd.DataFrame) -> pd.DataFrame:
    """The table and what became of it, one below the other, the images in another order each time."""
    parts = [table.assign(change="")]
    for i, (name, part) in enumerate(changes.items()):
        parts.append(part.assign(change=name).sample(frac=1, random_state=i))
    return pd.concat(parts, ignore_index=True)


def row(table: pd.DataFrame, change: str) -> pd.Series:
    return table.set_index("change").loc[change]


def all_called_positive(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(predicted="PNEUMONIA")


def other_answers(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same images as another model answers them."""
    order = np.random.default_rng(seed).permutation(len(table))
    columns = ["predicted", "loss", *(name for name in table if name.startswith("p_"))]
    return table.assign(**{name: table[name].to_numpy()[order] for name in columns})


@pytest.mark.parametrize("table", [BINARY, FOUR], ids=["two classes", "four classes"])
def test_each_row_has_the_numbers_and_intervals_of_its_own_predictions(table):
    other = other_answers(table, 0)
    found = robustness.measure(under(table, noise=other), seed=3)
    assert found["change"].tolist() == ["", "noise"]
    for name, part in (("", table), ("noise", other)):
        wanted = compute_metrics(part.sort_values("path").reset_index(drop=True), seed=3)
        for measure in ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity"):
            if measure in wanted:
                assert robustness.number_of(row(found, name), measure) == pytest.approx(
                    {end: wanted[measure][end] for end in ("value", "low", "high")}, abs=1e-9
                )
        assert row(found, name)[["n", "patients"]].tolist() == [len(part), wanted["patients"]]
    assert ("sensitivity" in found) == (table is BINARY)


@pytest.mark.parametrize("measure", ["accuracy", "specificity", "auc"])
def test_a_difference_is_paired_by_patients(measure):
    other = other_answers(BINARY, 1)
    found = row(robustness.measure(under(BINARY, noise=other), seed=5), "noise")
    wanted = paired_bootstrap(BINARY, other, measure, seed=5)
    assert robustness.number_of(found, f"{measure}_difference") == pytest.approx(
        {end: wanted[end] for end in ("value", "low", "high")}, abs=1e-9
    )


def test_what_changes_nothing_makes_no_difference():
    found = row(robustness.measure(under(BINARY, same=BINARY)), "same")
    numbers = found[[name for name in found.index if "difference" in name]]
    assert (numbers == 0).all()


def test_the_worst_come_first_and_what_costs_nothing_is_not_among_them():
    changes = {f"shuffled {i}": other_answers(BINARY, i) for i in range(7)}
    table = robustness.measure(under(BINARY, same=BINARY, **changes), repeats=20)
    found = robustness.worst(table)
    lost = found["balanced_accuracy_difference"]
    assert len(found) == 5 and lost.is_monotonic_increasing and (lost < 0).all()
    assert lost.iloc[0] == table["balanced_accuracy_difference"].min()
    assert robustness.worst(robustness.measure(under(BINARY, same=BINARY), repeats=20)).empty


def test_of_changes_that_cost_as_many_answers_that_which_costs_more_auc_is_the_worse():
    lost = {"balanced_accuracy_difference": [-0.1, -0.1, -0.2], "auc_difference": [-0.01, -0.3, 0]}
    table = pd.DataFrame({"change": ["dark", "noise", "blur"], **lost})
    assert [*robustness.worst(table)["change"]] == ["blur", "noise", "dark"]


def test_a_model_that_calls_all_ill_is_told_in_words():
    found = robustness.measure(under(BINARY, dark=all_called_positive(BINARY)), repeats=20)
    before = row(found, "")["specificity"]
    said = robustness.in_words(found.assign(words=["", "darker"]).to_dict("records")[1])
    assert said.startswith("darker: sensitivity 1.000 (higher by")
    assert said.endswith(f"specificity 0.000 (lower by {before:.3f})")


def test_of_one_answer_for_all_images_there_is_no_interval_as_in_the_metrics():
    found = robustness.measure(under(BINARY, dark=all_called_positive(BINARY)), repeats=20)
    before, after = row(found, ""), row(found, "dark")
    assert before["balanced_accuracy_low"] < before["balanced_accuracy"]
    assert after["balanced_accuracy"] == 0.5 and np.isnan(after["balanced_accuracy_low"])
    assert after["auc_low"] < after["auc"] and after["balanced_accuracy_difference_low"] < 0


def test_an_auc_that_is_lost_is_told_where_no_balanced_accuracy_is():
    ill = all_called_positive(BINARY)
    turned = ill.assign(p_NORMAL=ill["p_PNEUMONIA"], p_PNEUMONIA=ill["p_NORMAL"])
    found = robustness.measure(under(ill, same=ill, inverted=turned), repeats=20)
    assert robustness.worst(found).empty
    said = robustness.where_none_costs(found)
    none = "none of them costs balanced accuracy, as there is none to lose: the unchanged images "
    none += "all get one answer"
    assert said.startswith(f"{none}; inverted: AUC 0.")
    same = robustness.where_none_costs(found[found["change"] != "inverted"])
    assert same == none
    able = robustness.measure(under(BINARY, same=BINARY), repeats=20)
    assert robustness.where_none_costs(able) == "none of them costs balanced accuracy"


def test_for_people_there_is_a_row_a_change_with_the_differences():
    found = robustness.for_people(
        robustness.measure(under(FOUR, noise=other_answers(FOUR, 1)), repeats=20)
    )
    assert found.index.tolist() == ["unchanged", "noise"]
    assert found.columns.tolist() == ["change", "balanced accuracy", "accuracy", "AUC"]
    assert found["change"].tolist() == ["", "noise"]
    assert "(" in found.loc["noise", "AUC"] and " -0." in found.loc["noise", "AUC"]
    assert found.loc["unchanged", "AUC"].endswith(")")


def test_a_class_that_does_not_occur_leaves_numbers_undefined():
    ill = BINARY[BINARY["label"] == "PNEUMONIA"].reset_index(drop=True)
    found = robustness.measure(under(ill, dark=ill), repeats=20)
    assert found["specificity"].isna().all() and found["sensitivity"].notna().all()
    assert "specificity undefined" in robustness.in_words(found.to_dict("records")[1])
    assert robustness.number_of(found.iloc[1], "auc") == {"value": None, "low": None, "high": None}


def test_tables_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="as they are"):
        robustness.measure(BINARY.assign(change="noise"))
    with pytest.raises(ValueError, match="'noise'.*299 images.*300"):
        robustness.measure(under(BINARY, noise=BINARY[1:]))
    with pytest.raises(ValueError, match="several splits"):
        robustness.measure(under(BINARY, noise=BINARY.assign(split="test")))
    with pytest.raises(ValueError, match="repeats is 0"):
        robustness.measure(under(BINARY), repeats=0)
