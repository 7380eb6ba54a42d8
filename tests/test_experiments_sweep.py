"""Sweeps and tables: the setting is chosen on validation, finished runs are skipped, the page gets the figures."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from zf_pyro.experiments import figure, planned_results, planned_runs, sweep, table
from zf_pyro.experiments.curves import mean_curve, steps_to, thinned
from zf_pyro.experiments.plan import arguments_of, read_plan

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = pathlib.Path(flags["--out"])
with (out / "calls").open("a") as calls:
    calls.write("call\\n")
if flags["--seed"] == "13":
    sys.exit("an unlucky run")
quality = float(flags["--dropout"])
nats = lambda value: {"nats_per_frame": {"value": value + int(flags["--seed"]), "standard_error": 0.1}}
evaluation = lambda value: {
    "bounds": {"elbo": nats(value), "particle": nats(value + 1)}, "kl": nats(2.0),
    "num_sequences": 3, "num_frames": 9, "num_particles": 8, "filter_particles": 8,
}
results = {"parameters": 1234, "training_seconds": 5.5, "model": "vrnn", "command": "python", "evaluations": {
    **({"test, 8 particles": evaluation(-quality)} if flags.get("--test_sequences") != "0" else {}),
    "validation, 8 particles": evaluation(quality)}}
(out / "results.json").write_text(json.dumps(results | {"steps": 100}))
worth = quality + 0.01 * int(flags["--seed"])
splits = ("validation",) if flags.get("--test_sequences") == "0" else ("test", "validation")
lines = [f"{split},{n},{n * worth - n * n},7.0,8" for split in splits for n in (2, 3)]
header = "split,num_frames,particle,kl,filter_particles"
(out / "sequences.csv").write_text("\\n".join([header, *lines]) + "\\n")
log = out / "logs" / "version_0" / "metrics.csv"
log.parent.mkdir(parents=True, exist_ok=True)
lines = [f"{10 * i},{i * quality + int(flags['--seed'])},{i},1.0" for i in range(11)]
log.write_text("\\n".join(["step,validation/elbo,train/kl,train/lr", *lines]))
"""
"""A run in milliseconds. The larger the dropout, the better its validation figures, and the worse those of the test."""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan of one table: a row with three settings and seeds, and a published one."""
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text(SCRIPT)
    fields = {
        "script": "script.py",
        "runs": "runs",
        "results": "results",
        "select": ["validation, 8 particles", "particle"],
        "tables": [
            {
                "name": "jsb",
                "flags": {"corpus": "jsb"},
                "rows": [
                    {"label": "VRNN, published", "published": {"ELBO": -8.69}},
                    {
                        "name": "vrnn",
                        "label": "VRNN",
                        "flags": {"model": "vrnn"},
                        "grid": {"dropout": [0.0, 0.75, 0.5]},
                        "seeds": [0, 1, 2],
                    },
                ],
            }
        ],
    }
    Path("plan.json").write_text(json.dumps(fields))
    return fields


def write(plan):
    Path("plan.json").write_text(json.dumps(plan))
    return read_plan(Path("plan.json"))


def test_all_settings_run_under_the_first_seed_and_the_best_on_validation_under_the_others(plan):
    read = write(plan)
    names = [run.name for run in planned_results.pending(read)]
    assert names == [f"vrnn.dropout-{value}.seed0" for value in ("0.0", "0.75", "0.5")]
    assert sweep.sweep(read) == []
    chosen = [f"vrnn.dropout-0.75.seed{seed}" for seed in (0, 1, 2)]
    kept = {f"{name}.json" for name in (*names, *chosen)} | {f"{name}.csv.gz" for name in chosen}
    assert {path.name for path in Path("results").iterdir()} == kept
    assert planned_results.pending(read) == []


def test_the_table_has_the_mean_and_each_seed_of_the_chosen_setting(plan):
    sweep.sweep(write(plan))
    lines = table.table_of(read_plan(Path("plan.json")), read_plan(Path("plan.json")).tables[0]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    columns = dict(zip(cells[0], zip(*cells[2:], strict=True), strict=True))
    assert columns["seed"] == ("published", "mean", "0", "1", "2")
    assert columns["validation"] == ("", "2.750", "1.750", "2.750", "3.750")
    assert columns["ELBO"] == ("-8.690", "0.250", "-0.750", "0.250", "1.250")
    assert columns["FIVO-8"] == ("", "1.250", "0.250", "1.250", "2.250")
    assert columns["IWAE-5"] == ("",) * 5
    assert columns["parameters"][2:] == ("1,234",) * 3
    command = "python script.py --corpus jsb --model vrnn --dropout 0.75"
    assert [line for line in lines if "script.py" in line] == [f"- VRNN, `--seed` 0, 1, 2: `{command}`"]
    assert "Not finished" not in "".join(lines)


def test_finished_runs_are_skipped_and_broken_ones_go_on(plan):
    read = write(plan)
    sweep.sweep(read)
    Path("results/vrnn.dropout-0.75.seed1.json").unlink()
    sweep.sweep(read)
    calls = {path.parent.name: len(path.read_text().split()) for path in Path("runs").glob("*/calls")}
    assert calls.pop("vrnn.dropout-0.75.seed1") == 2
    assert calls.pop("vrnn.dropout-0.75.seed0") == 2, "without the test set, then with it"
    assert set(calls.values()) == {1}


def test_the_test_set_is_scored_for_the_chosen_setting_alone(plan):
    read = write(plan)
    sweep.sweep(read)
    kept = {path.name: json.loads(path.read_text()) for path in Path("results").glob("*.json")}
    tested = {name for name, result in kept.items() if "test, 8 particles" in result["evaluations"]}
    assert tested == {f"vrnn.dropout-0.75.seed{seed}.json" for seed in (0, 1, 2)}
    commands = {name: result["command"] for name, result in kept.items()}
    assert {
        name for name, command in commands.items() if command.endswith("--test_sequences 0")
    } == kept.keys() - tested
    assert all("validation, 8 particles" in result["evaluations"] for result in kept.values())


def test_a_row_of_one_setting_is_scored_at_once(plan):
    plan["tables"][0]["rows"][1]["grid"] = {"dropout": [0.5]}
    sweep.sweep(write(plan))
    assert {len(path.read_text().split()) for path in Path("runs").glob("*/calls")} == {1}


def test_a_run_that_fails_is_told_of_and_the_others_run(plan, capsys):
    plan["tables"][0]["rows"][1]["seeds"] = [0, 13, 2]
    failed = sweep.sweep(write(plan))
    assert failed == ["vrnn.dropout-0.75.seed13 ended with code 1: see runs/vrnn.dropout-0.75.seed13/output.log"]
    assert "an unlucky run" in Path("runs/vrnn.dropout-0.75.seed13/output.log").read_text()
    assert Path("results/vrnn.dropout-0.75.seed2.json").is_file()
    read = read_plan(Path("plan.json"))
    assert "Not finished:\n\n- VRNN (2 of 3 seeds)" in table.table_of(read, read.tables[0])


def test_results_of_other_flags_are_not_taken_for_these(plan):
    sweep.sweep(write(plan))
    plan["tables"][0]["flags"]["corpus"] = "nottingham"
    with pytest.raises(ValueError, match=r"is of a run with other flags, --corpus jsb .* has --corpus notting"):
        planned_results.pending(write(plan))


@pytest.mark.parametrize(("text", "message"), [("", "is no JSON"), ('{"a": ', "is no JSON"), ("[1]", "got a list")])
def test_a_file_that_holds_no_results_is_named(plan, text, message):
    sweep.sweep(write(plan))
    Path("results/vrnn.dropout-0.75.seed1.json").write_text(text)
    read = read_plan(Path("plan.json"))
    with pytest.raises(ValueError, match=rf"vrnn\.dropout-0\.75\.seed1\.json .*{message}.*remove it"):
        table.table_of(read, read.tables[0])


def test_a_density_without_latents_stands_in_every_column():
    result = {"evaluations": {"test": {"bounds": {"log_likelihood": nats(-5.0)}, "kl": None}}}
    assert planned_results.figure(result, "test, 8 particles", "particle") == -5.0
    assert planned_results.figure(result, "test, 5 particles", "elbo") == -5.0
    assert planned_results.figure(result, "test, 8 particles", "kl") is None
    assert planned_results.figure(result, "validation, 8 particles", "elbo") is None


def test_other_groups_of_figures_are_read_by_name():
    result = {"evaluations": {}, "sentiment": {"accuracy": 0.61, "baseline": None}}
    assert planned_results.figure(result, "sentiment", "accuracy") == 0.61
    assert planned_results.figure(result, "sentiment", "baseline") is None
    assert planned_results.figure({"evaluations": {}, "sentiment": None}, "sentiment", "accuracy") is None


def nats(value):
    """A figure as results.json has it."""
    return {"value": value, "standard_error": 0.1, "unit": "nats per frame"}


def test_small_results_keep_nats_per_frame_with_errors():
    bound = {"nats_per_frame": nats(-5.0), "nats_per_sequence": {"value": -300.0, "standard_error": 5.0}}
    evaluation = {"bounds": {"elbo": bound}, "kl": bound, "protocol": "full_density"}
    counts = {"num_sequences": 3, "num_frames": 4, "num_particles": 5, "filter_particles": None}
    small = planned_runs.shortened({"evaluations": {"test": evaluation | counts}, "parameters": 3, "x": 1})
    assert small == {
        "parameters": 3,
        "evaluations": {"test": {"bounds": {"elbo": nats(-5.0)}, "kl": nats(-5.0), **counts}},
    }


def test_the_page_keeps_everything_but_the_table(plan, monkeypatch):
    sweep.sweep(write(plan))
    Path("page.md").write_text("# Title\n\n<!-- table jsb -->\nold\n<!-- end of table jsb -->\n\nAfter.\n")
    for _ in range(2):
        table.main(["plan.json", "--page", "page.md"])
        page = Path("page.md").read_text()
        assert page.startswith("# Title\n\n<!-- table jsb -->\n\n| model | seed |")
        assert page.endswith("</details>\n\n<!-- end of table jsb -->\n\nAfter.\n")
        assert "old" not in page
    Path("page.md").write_text("no markers")
    with pytest.raises(SystemExit, match="the page must have <!-- table jsb --> and then <!-- end of table jsb -->"):
        table.main(["plan.json", "--page", "page.md"])


def test_only_tables_of_the_pattern_are_written(plan, capsys):
    plan["tables"].append({**plan["tables"][0], "name": "large", "rows": [{"name": "srnn", "label": "SRNN"}]})
    write(plan)
    table.main(["plan.json", "--tables", "lar*"])
    printed = capsys.readouterr().out
    assert printed.startswith("large\n")
    assert "SRNN (0 of 1 seeds)" in printed
    assert "VRNN" not in printed
    with pytest.raises(SystemExit, match="tables must be a pattern of 'jsb', 'large', got 'none'"):
        table.main(["plan.json", "--tables", "none"])


def test_the_command_line_lists_and_runs(plan, capsys):
    write(plan)
    sweep.main(["plan.json", "--list", "--rows", "vr*"])
    assert capsys.readouterr().out.splitlines()[1].startswith("vrnn.dropout-0.75.seed0: --corpus jsb --model vrnn")
    sweep.main(["plan.json", "--rows", "vr*", "--jobs", "1"])
    assert capsys.readouterr().out.startswith("3 runs to go\nvrnn.dropout-0.0.seed0, 0.0 min\n")
    assert len(list(Path("results").glob("*.json"))) == 5
    sweep.main(["plan.json"])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match=r"error: .*missing.json"):
        sweep.main(["missing.json"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "typo*"], r"error: --rows must be a pattern of 'vrnn', got 'typo\*'"),
        (["--list", "--rows", "typo*"], r"error: --rows must be a pattern of 'vrnn', got 'typo\*'"),
        (["--jobs", "0"], "error: --jobs must be a positive integer, got 0"),
    ],
)
def test_flags_under_which_nothing_would_run_are_refused(plan, flags, message):
    write(plan)
    with pytest.raises(SystemExit, match=message):
        sweep.main(["plan.json", *flags])
    assert not Path("runs").exists()


def test_a_run_that_fails_ends_the_command_with_its_sentence(plan):
    plan["tables"][0]["rows"][1]["seeds"] = [13]
    write(plan)
    with pytest.raises(SystemExit, match=r"vrnn\.dropout-0\.0\.seed13 ended with code 1: see "):
        sweep.main(["plan.json"])


def test_flags_become_arguments():
    flags = {"smoke": True, "resume": False, "transpose": True, "window": None, "aux_weight": [0.1, 0], "model": "vrnn"}
    expected = ["--smoke", "--transpose", "true", "--aux_weight", "[0.1,0]", "--model", "vrnn"]
    assert arguments_of(flags) == expected


def change(plan, **fields):
    return {**plan, "tables": [{**plan["tables"][0], "rows": [{"name": "a", "label": "A", **fields}]}]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": [0]}, "row 0 must have label, name, may have flags, grid, seeds, select, settings; got"),
        ({"name": "a/b"}, "must have a name of letters, digits, _, - and ., got 'a/b'"),
        ({"seeds": []}, "must have lists of tables, rows, settings and seeds, got"),
        ({"seeds": ["0"]}, r"must have integers as seeds, got \['0'\]"),
        ({"settings": [{}, {}]}, "names two runs 'a.seed0'"),
        ({"select": ["test, 8 particles", "elbo"]}, "must select by an evaluation of the validation set and a bound"),
    ],
)
def test_a_plan_that_is_none_is_refused(plan, fields, message):
    with pytest.raises(ValueError, match=message):
        write(change(plan, **fields))


def test_a_selection_by_a_figure_that_the_results_lack_is_refused(plan):
    plan["select"] = ["validation, 5 particles", "particle"]
    with pytest.raises(ValueError, match=r"vrnn is to be selected by .*validation, 5.* which its results lack"):
        sweep.sweep(write(plan))


def test_a_plan_of_no_json_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        read_plan(tmp_path / "plan.json")


def test_runs_use_the_interpreter_of_the_sweep(plan, monkeypatch):
    commands = []

    def run(command, **settings):
        commands.append((command, settings["env"]["OMP_NUM_THREADS"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("subprocess.run", run)
    read = write(plan)
    with pytest.raises(KeyboardInterrupt):
        planned_runs.execute(read, planned_results.pending(read)[0])
    (command, threads) = commands[0]
    assert (command[:2], threads) == ([sys.executable, "script.py"], "1")
    assert "--resume" not in command


PLANS = sorted(ROOT.glob("benchmarks/*/*.json"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_plans_of_the_repository_are_plans_of_its_scripts(path):
    plan = read_plan(path)
    assert plan.rows
    assert (ROOT / plan.script).is_file()
    assert (ROOT / plan.results).is_dir()


# Curves ---------------------------------------------------------------------------------------------------------------


def test_a_long_curve_keeps_the_means_of_equal_parts():
    curve = [(float(step), float(step % 2)) for step in range(1, 101)]
    assert thinned(curve, 50) == [(2.0 * i, 0.5) for i in range(1, 51)]
    assert thinned(curve[:7], 50) == curve[:7]


def test_a_bound_is_reached_at_the_first_step_at_or_above_it():
    curve = [(10, -5.0), (20, -3.0), (30, -4.0), (40, -1.0)]
    assert steps_to(curve, -3.0) == 20
    assert steps_to(curve, -2.0) == 40
    assert steps_to(curve, 0.0) is None


def test_curves_are_averaged_where_all_have_a_value():
    assert mean_curve([[(1, 0.0), (2, 2.0)], [(2, 4.0), (3, 9.0)]]) == [(2, 3.0)]
    assert mean_curve([]) == []


def test_results_keep_the_curves_and_the_table_says_when_a_bound_was_reached(plan):
    plan["tables"][0]["reach"] = [3.0, 100.0]
    read = write(plan)
    assert sweep.sweep(read) == []
    kept = json.loads(Path("results/vrnn.dropout-0.75.seed1.json").read_text())["curves"]
    assert kept.keys() == {"validation/elbo", "train/kl"}
    assert kept["validation/elbo"][-1] == [100, 8.5]
    lines = table.table_of(read, read.tables[0]).splitlines()
    assert "steps, seconds to 3 | steps, seconds to 100 |" in lines[0]
    seeds = lines[4:7]
    assert [line.removesuffix(" |").split(" | ")[-2:] for line in seeds] == [
        ["40, 2", "never"],
        ["30, 2", "never"],
        ["20, 1", "never"],
    ]
    assert len({line.count(" | ") for line in lines[:6]}) == 1


def test_the_figure_has_a_line_a_row_in_each_panel_with_curves(plan):
    pytest.importorskip("matplotlib")
    read = write(plan)
    assert sweep.sweep(read) == []
    found = figure.draw(read, "jsb")
    titles = [axis.get_title() for axis in found.axes if axis.lines]
    assert titles == ["validation bound", "KL(q || p)"]
    assert found.axes[0].lines[0].get_ydata().tolist() == [0.75 * i + 1.0 for i in range(11)]
    assert found.axes[0].get_ylim() == pytest.approx((0.75 * 3 + 1 - 0.2625, 0.75 * 10 + 1 + 0.2625)), "from 30 % on"
    figure.main(["plan.json", "--table", "jsb", "--out", "figure.png"])
    assert Path("figure.png").stat().st_size > 1000


def test_the_figure_can_have_some_rows_alone(plan):
    pytest.importorskip("matplotlib")
    plan["tables"][0]["rows"].append(plan["tables"][0]["rows"][1] | {"name": "srnn", "label": "SRNN"})
    sweep.sweep(write(plan))
    read = read_plan(Path("plan.json"))
    for patterns, labels in ((["*"], ["VRNN", "SRNN"]), (["sr*"], ["SRNN"]), (["vrnn", "s?nn"], ["VRNN", "SRNN"])):
        found = figure.draw(read, "jsb", patterns)
        assert [line.get_label() for line in found.axes[0].lines] == labels
    with pytest.raises(ValueError, match="rows must match one of vrnn, srnn, got dmm"):
        figure.draw(read, "jsb", ["dmm"])


def test_a_figure_of_nothing_is_refused(plan):
    read = write(plan)
    with pytest.raises(ValueError, match="table must be one of 'jsb', got 'nottingham'"):
        figure.draw(read, "nottingham")
    with pytest.raises(ValueError, match="no run of the table 'jsb' has finished with its curves"):
        figure.draw(read, "jsb")
    with pytest.raises(SystemExit, match="error: no run of the table"):
        figure.main(["plan.json", "--table", "jsb", "--out", "figure.png"])


def test_a_table_shows_the_columns_of_its_plan(plan):
    plan["columns"] = [["likelihood", "test, 8 particles", "particle"], ["KL", "test, 8 particles", "kl"]]
    read = write(plan)
    assert sweep.sweep(read) == []
    header, _, _, mean = table.table_of(read, read.tables[0]).splitlines()[:4]
    assert header == "| model | seed | validation | likelihood | KL | parameters | seconds |"
    assert mean == "| **VRNN** | mean | 2.750 | 1.250 | 3.000 |  |  |"


def test_columns_of_another_form_are_refused(plan):
    plan["tables"][0]["columns"] = [["ELBO", "test"]]
    with pytest.raises(ValueError, match="must have columns of a title, an evaluation and a bound"):
        write(plan)


def test_a_table_has_paired_differences_from_a_row_after_its_figures(plan):
    rows = plan["tables"][0]["rows"]
    rows.append({"name": "srnn", "label": "SRNN", "flags": {"model": "srnn", "dropout": 0.25}, "seeds": [0, 1, 2]})
    rows.append({"name": "dmm", "label": "DMM", "flags": {"model": "dmm", "dropout": 0.25}, "seeds": [0, 13]})
    rows.append({"name": "rnn", "label": "RNN", "flags": {"model": "rnn", "dropout": 0.25}, "seeds": [3]})
    plan["tables"][0]["against"] = "srnn"
    read = write(plan)
    sweep.sweep(read)
    assert gzip.decompress(Path("results/srnn.seed1.csv.gz").read_bytes()).decode() == (
        "split,num_frames,particle,kl,filter_particles\ntest,2,-3.48,7,8\ntest,3,-8.22,7,8\n"
    )
    lines = table.table_of(read, read.tables[0]).splitlines()
    about = next(i for i, line in enumerate(lines) if line.startswith("Paired with SRNN over 2 test sequences"))
    assert lines[about - 2] == "- DMM (1 of 2 seeds)"
    assert lines[about + 2 : about + 6] == [
        "| ahead by | seeds | particle, 8 |",
        "| --- | --- | --- |",
        "| **VRNN** | 0, 1, 2 | +0.500 ± 0.000 (+0.500, +0.500, +0.500) |",
        "| **DMM** | 0 | +0.000 ± 0.000 |",
    ]


def test_differences_can_be_from_a_row_of_another_table(plan):
    rows = [{"name": "srnn", "label": "SRNN", "flags": {"model": "srnn", "dropout": 0.25}, "seeds": [0]}]
    plan["tables"].append({**plan["tables"][0], "name": "other", "rows": rows, "against": "vrnn"})
    read = write(plan)
    sweep.sweep(read)
    lines = table.table_of(read, read.tables[1]).splitlines()
    assert "Paired with VRNN over 2 test sequences" in "\n".join(lines)
    assert "| **SRNN** | 0 | -0.500 ± 0.000 |" in lines


def test_differences_from_no_row_of_the_plan_are_refused(plan):
    plan["tables"][0]["against"] = "srnn"
    with pytest.raises(ValueError, match="table 'jsb' must be against the name of a row, got 'srnn'"):
        write(plan)


def test_a_figure_is_that_of_the_named_evaluation_and_of_a_baseline_its_log_likelihood():
    latent = {"bounds": {"elbo": nats(-3.0)}, "kl": nats(1.0)}
    net = {"evaluations": {"validation": latent, "validation, raw": {"bounds": {"elbo": nats(-9.0)}, "kl": None}}}
    baseline = {"evaluations": {"validation": {"bounds": {"log_likelihood": nats(-4.0)}, "kl": None}}}
    assert planned_results.figure(net, "validation", "elbo") == -3.0
    assert planned_results.figure(net, "validation", "kl") == 1.0
    assert planned_results.figure(net, "validation, raw", "elbo") == -9.0
    assert planned_results.figure(net, "validation, raw", "kl") is None
    assert planned_results.figure(net, "validation", "particle") is None
    assert planned_results.figure(baseline, "validation, 8 particles", "particle") == -4.0
    assert planned_results.figure(baseline, "validation", "kl") is None


def test_figures_of_training_are_means_of_the_later_half_of_what_was_measured():
    curves = {
        "mechanism/earned": [(0, 1.0), (50, 4.0), (100, 8.0)],
        "train/auxiliary": [(10, -5.0), (60, 10.0), (90, 30.0), (150, 99.0)],
    }
    result = {"evaluations": {}, "curves": curves}
    assert planned_results.figure(result, "training", "earned") == 6.0
    assert planned_results.figure(result, "training", "auxiliary") == 20.0
    assert planned_results.figure({"evaluations": {}, "curves": {"train/kl": [(1, 2.0)]}}, "training", "earned") is None


def test_the_ratio_of_gradient_norms_is_the_geometric_mean_of_the_earlier_half():
    curves = {
        "mechanism/grad_norm_auxiliary": [(0, 100.0), (10, 40.0), (20, 10.0), (30, 1e9), (40, 1e9)],
        "mechanism/grad_norm_log_likelihood": [(0, 1.0), (10, 20.0), (20, 20.0), (30, 1.0), (40, 1.0), (50, 1.0)],
    }
    result = {"evaluations": {}, "curves": curves}
    assert planned_results.figure(result, "training", "gradient") == pytest.approx((2.0 * 0.5) ** 0.5)
    assert planned_results.figure({"evaluations": {}, "curves": {}}, "training", "gradient") is None


def test_the_table_shows_what_z_earns_in_whole_nats_and_nothing_for_a_run_without_an_auxiliary(plan):
    plan["columns"] = [["ELBO", "test, 8 particles", "elbo"], ["earned by z", "training", "earned"]]
    read = write(plan)
    assert sweep.sweep(read) == []
    path = Path("results/vrnn.dropout-0.75.seed0.json")
    result = json.loads(path.read_text())
    result["curves"]["mechanism/earned"] = [(10, 1000.0), (20, 1234.4)]
    path.write_text(json.dumps(result))
    first, second = table.table_of(read, read.tables[0]).splitlines()[4:6]
    assert "| 1,117 |" in first
    assert "|  |" in second


def test_a_column_of_training_that_is_not_logged_is_refused(plan):
    plan["tables"][0]["columns"] = [["KL", "training", "kl"]]
    with pytest.raises(ValueError, match="must have columns of training of auxiliary, earned, gradient, got 'kl'"):
        write(plan)
