"""The choice of a machine: a rule or a measurement, an environment variable, one line of advice, and show_config."""

import logging
from types import SimpleNamespace

import pytest
import torch

import zf_pyro
from zf_pyro.recurrence.engine import fastest, machines
from zf_pyro.recurrence.engine.buffers import Arena, Tape
from zf_pyro.recurrence.engine.fastest import choose, compiles, machine_for
from zf_pyro.recurrence.engine.machines import CompiledMachine, PlainMachine

BUILD = {"LEVELS": ("SSE2", "AVX2"), "PANELS": (6, 6), "COMPILER": "gcc 12.2.0", "THREADED": 1, "OPTIMISED": 1}
"""A build for which a rule chooses C."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Neither a setting, nor measurements, nor advice from before; restored afterwards."""
    monkeypatch.delenv("ZF_PYRO_MACHINE", raising=False)
    monkeypatch.setattr(fastest, "_measured", {})
    monkeypatch.setattr(fastest, "_advised", set())


@pytest.fixture
def built(monkeypatch):
    """Pretend that the C loops were built as BUILD with some changes."""

    def pretend(**changes):
        monkeypatch.setattr(machines, "_compiled", SimpleNamespace(**BUILD | changes))

    return pretend


@pytest.fixture
def timed(monkeypatch):
    """Pretend that a step takes so many seconds in C and in PyTorch; returns the kinds that were measured."""

    def pretend(c, pytorch):
        seconds, kinds = {CompiledMachine: c, PlainMachine: pytorch}, []
        monkeypatch.setattr(fastest, "_steps", lambda kind, *sizes: kinds.append(kind) or kind)
        monkeypatch.setattr(fastest, "_seconds", lambda kind, steps: seconds[kind])
        return kinds

    return pretend


def tape(dtype=torch.float32):
    return Tape(Arena(), torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("level", ["AVX2", "AVX-512"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("width", "rows"), [(1, 1), (128, 32), (1024, 1), (1025, 2), (4096, 1000)])
def test_a_rule_chooses_c_where_it_was_measured(built, timed, dtype, level, width, rows):
    built(LEVELS=("SSE2", level))
    kinds = timed(9.0, 1.0)
    assert choose(dtype, width, rows).compiled
    assert kinds == []


@pytest.mark.parametrize("width", [1025, 4096])
def test_a_rule_chooses_pytorch_for_one_row_of_a_wide_layer(built, width):
    built()
    assert choose(torch.float32, width, 1) == (
        False,
        "one row of a wide layer is faster in PyTorch: a vector of C holds several rows",
        None,
    )


@pytest.mark.parametrize("changes", [{"LEVELS": ("SSE2",)}, {"LEVELS": ("NEON",)}, {"THREADED": 0}])
@pytest.mark.parametrize(("c", "pytorch"), [(1e-3, 2e-3), (2e-3, 1e-3), (1e-3, 1e-3)])
def test_a_measurement_chooses_elsewhere(built, timed, monkeypatch, changes, c, pytorch):
    """The faster machine, C if both take as long; each size class is measured once."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    built(**changes)
    kinds = timed(c, pytorch)
    for width, rows in ((100, 20), (128, 32), (65, 17)):  # one class
        choice = choose(torch.float32, width, rows)
        assert choice.compiled == (c <= pytorch)
        assert choice.reason == f"measured: a step takes {c * 1e6:.0f} us in C and {pytorch * 1e6:.0f} us in PyTorch"
    assert kinds == [CompiledMachine, PlainMachine]
    assert list(fastest.measurements()) == [(torch.float32, 128, 32, 4)]
    choose(torch.float32, 129, 32)
    choose(torch.float64, 128, 32)
    assert len(kinds) == 6


def test_one_thread_needs_no_openmp(built, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    built(THREADED=0)
    assert choose(torch.float32, 128, 32).compiled


def test_a_build_without_optimisation_does_not_run(built):
    built(OPTIMISED=0)
    assert choose(torch.float32, 128, 32).reason == "the C loops were compiled without optimisation"
    assert not compiles(torch.zeros(3, 2, 8))


@pytest.mark.parametrize(
    ("setting", "kind"), [("c", CompiledMachine), ("C", CompiledMachine), ("pytorch", PlainMachine)]
)
def test_the_environment_fixes_the_machine(built, timed, monkeypatch, setting, kind):
    built(LEVELS=("NEON",))
    kinds = timed(1.0, 1.0)
    monkeypatch.setenv("ZF_PYRO_MACHINE", setting)
    assert type(machine_for(tape(), 8, 2)) is kind
    assert compiles(torch.zeros(3, 2, 8)) == (kind is CompiledMachine)
    assert kinds == []


def test_settings_that_cannot_be_are_refused(monkeypatch):
    monkeypatch.setenv("ZF_PYRO_MACHINE", "fast")
    with pytest.raises(ValueError, match="ZF_PYRO_MACHINE must be c, pytorch, fused, persistent or unset, got 'fast'"):
        zf_pyro.show_config("dict")
    monkeypatch.setenv("ZF_PYRO_MACHINE", "c")
    monkeypatch.setattr(machines, "_compiled", None)
    with pytest.raises(RuntimeError, match="the C loops were not built: install a C compiler"):
        machine_for(tape(), 8, 2)


def test_one_line_of_advice_where_c_is_missing(monkeypatch, caplog):
    monkeypatch.setattr(machines, "_compiled", None)
    with caplog.at_level(logging.WARNING):
        for dtype in (torch.float32, torch.float64, torch.float32):
            assert isinstance(machine_for(tape(dtype), 8, 2), PlainMachine)
    assert [record.getMessage() for record in caplog.records] == [
        "time loops run in PyTorch, which is slow: the C loops were not built. "
        "Install GCC or Clang, then zf_pyro again from its sources."
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_advice_where_there_is_no_faster_machine(built, caplog, dtype):
    built()
    with caplog.at_level(logging.WARNING):
        assert isinstance(machine_for(tape(dtype), 8, 2), PlainMachine)
    assert caplog.records == []


@pytest.mark.skipif(machines._compiled is None, reason="no C compiler when zf_pyro was installed")
def test_a_real_measurement_takes_little_time_and_no_random_numbers(monkeypatch):
    monkeypatch.setattr(fastest, "by_rule", lambda *sizes: None)
    before = torch.get_rng_state()
    choose(torch.float32, 64, 16)
    assert torch.equal(torch.get_rng_state(), before)
    (found,) = fastest.measurements().values()
    assert 0 < found.c < 0.05
    assert 0 < found.pytorch < 0.05


def test_the_configuration_names_machine_reason_and_build(built, capsys):
    built()
    fields = zf_pyro.show_config("dict")
    assert fields["machine"] == "c"
    assert fields["reason"] == "with AVX2, C was faster than PyTorch on as many threads at the sizes measured"
    assert (fields["compiler"], fields["instructions"], fields["openmp"]) == ("gcc 12.2.0", "AVX2", True)
    assert fields["threads"] == torch.get_num_threads()
    assert fields["torch"] == torch.__version__
    assert zf_pyro.show_config() is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "machine:      c"
    assert "compiler:     gcc 12.2.0" in lines


def test_the_configuration_lists_measurements(built, timed, monkeypatch, capsys):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    built(THREADED=0)
    timed(2e-3, 1e-3)
    choose(torch.float64, 512, 8)
    fields = zf_pyro.show_config("dict")
    assert (fields["machine"], fields["threads"]) == ("measured", 1)
    sizes = {"dtype": torch.float64, "width": 512, "rows": 8, "threads": 2}
    assert fields["measured"] == [{**sizes, "c": 2e-3, "pytorch": 1e-3}]
    zf_pyro.show_config()
    assert "'width': 512" in capsys.readouterr().out


def test_a_build_from_older_sources_does_not_run(monkeypatch):
    monkeypatch.setattr(machines, "_compiled", SimpleNamespace(PANELS=(6,), run=None))
    assert choose(torch.float32, 8, 2).reason == "the C loops were built from older sources"
    fields = zf_pyro.show_config("dict")
    assert (fields["machine"], fields["compiler"], fields["instructions"]) == ("pytorch", None, None)


def test_the_configuration_without_c(monkeypatch):
    monkeypatch.setattr(machines, "_compiled", None)
    fields = zf_pyro.show_config("dict")
    assert (fields["machine"], fields["compiler"], fields["openmp"]) == ("pytorch", None, None)
    assert fields["advice"] == "Install GCC or Clang, then zf_pyro again from its sources."
    with pytest.raises(ValueError, match='mode must be "stdout" or "dict", got \'text\''):
        zf_pyro.show_config("text")
