"""Settings: their layers, every fault at once with its place, and the files that are shown."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rostral_gcs import GcsConfig
from rostral_gcs.cli import main
from rostral_gcs.errors import ConfigError
from rostral_gcs.gcs_settings import SETTINGS
from rostral_gcs.services.kinds import SIZE, parse_size
from rostral_gcs.services.reloading import Reloader
from rostral_gcs.services.settings import Flag, Settings, settings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Oven:
    """How an oven runs.

    Attributes:
        name: What it is
            called.
        trays: How many it has.
    """

    name: str = "oven"
    trays: int = 2
    heat_bytes_max: int = 1024
    """As hot as it gets."""
    doors: tuple[str, ...] = ()
    hidden: str = "secret"
    weights: Mapping[str, float] = field(default_factory=dict)
    place: Path | None = None
    is_on: bool = False


def build(values: Mapping[str, Any]) -> Oven:
    if not 0 < values["trays"] < 10:
        problem = f"trays is {values['trays']}; allowed: 1 to 9"
        raise ConfigError("wrong", problems=[problem])
    return Oven(**values)


OVEN = Settings("big-oven", settings_of(Oven, leave_out=["hidden"]), build)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(text: str) -> Path:
        path = tmp_path / "oven.toml"
        path.write_text(text)
        path.chmod(0o600)
        return path

    return written


def problems(settings: Settings[Any], *arguments: Any, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings.read(*arguments, **more)
    return list(caught.value.problems)


def test_fields_bring_their_documentation_wherever_it_stands() -> None:
    about = {setting.name: setting.about for setting in OVEN.settings}
    assert about["name"] == "What it is called."
    assert about["heat_bytes_max"] == "As hot as it gets."
    assert "hidden" not in about


def test_a_secret_cannot_become_a_setting() -> None:
    with pytest.raises(ValueError, match="token is a secret"):
        settings_of(GcsConfig)


def test_flags_are_above_the_environment_above_the_file_above_the_defaults(write: Any) -> None:
    file = write("name = 'of the file'\ntrays = 3\ndoors = ['left']\n")
    configured = OVEN.read(
        file,
        environ={"ROSTRAL_BIG_OVEN_TRAYS": "4", "ROSTRAL_BIG_OVEN_DOORS": "['right']"},
        flags={"doors": Flag("--door", ("both",))},
    )
    assert configured.config == Oven(name="of the file", trays=4, doors=("both",))
    assert configured.origins == {
        "name": f"{file}:1",
        "trays": "$ROSTRAL_BIG_OVEN_TRAYS",
        "doors": "--door",
        "heat_bytes_max": "default",
        "weights": "default",
        "place": "default",
        "is_on": "default",
    }


def test_every_fault_of_every_layer_is_told_at_once_with_its_place(write: Any) -> None:
    file = write("nmae = 'x'\n\ntrays = 12\nis_on = 1\n[weights]\nflour = 'much'\n")
    found = problems(
        OVEN, file, environ={"ROSTRAL_BIG_OVEN_HEAT_BYTES_MAX": "hot", "ROSTRAL_BIG_OVEN_X": "1"}
    )
    assert found == [
        f"{file}:1: key 'nmae' unknown, did you mean 'name'?",
        f"{file}:4: is_on is 1; allowed: true or false",
        f"{file}:5: weights is {{'flour': 'much'}}; allowed: a table of numbers: {{ name = 1.0 }}",
        "$ROSTRAL_BIG_OVEN_HEAT_BYTES_MAX: heat_bytes_max is 'hot'; allowed: "
        "bytes, as a number or with a unit: 65536, '64M', '1.5G'",
        "$ROSTRAL_BIG_OVEN_X: key 'x' unknown, see: config show --default",
        f"{file}:3: trays is 12; allowed: 1 to 9",
    ]


def test_a_file_that_is_no_toml_is_refused_with_the_line(write: Any) -> None:
    (problem,) = problems(OVEN, write("trays = 3\nname = = 4\n"), environ={})
    assert "oven.toml:2: not TOML" in problem


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(OVEN, tmp_path / "none.toml", environ={})
    assert problem.endswith("none.toml: cannot be read: No such file or directory")


def test_a_file_that_others_may_write_to_is_refused(write: Any) -> None:
    file = write("trays = 3\n")
    file.chmod(0o620)
    (problem,) = problems(OVEN, file, environ={})
    assert "others may write to it" in problem
    assert "chmod go-w" in problem


def test_an_unknown_key_is_named_without_its_value(write: Any) -> None:
    (problem,) = problems(OVEN, write("passwort = 'canary-4711'\n"), environ={})
    assert "passwort" in problem
    assert "canary" not in problem


def test_tables_and_numbers_keep_their_types(write: Any) -> None:
    file = write("heat_bytes_max = '64K'\nweights = { flour = 1, salt = 0.5 }\nplace = '/srv'\n")
    oven = OVEN.read(file, environ={}).config
    assert oven.heat_bytes_max == 65536
    assert oven.weights == {"flour": 1.0, "salt": 0.5}
    assert oven.place == Path("/srv")


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("64K", 65536), ("1.5GiB", 3 << 29), ("2 MB", 2 << 20)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert SIZE.check(text) == size


@pytest.mark.parametrize("text", ["10 apples", "-1", "", "M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_the_default_file_says_every_setting_and_changes_none(write: Any) -> None:
    text = SETTINGS.default_file()
    assert tomllib.loads(text) == {}
    for setting in SETTINGS.settings:
        assert f"\n#{setting.name} =" in text
    # With the # taken away, it says what holds anyway.
    uncommented = [
        line.removeprefix("#")
        for line in text.splitlines()
        if line.startswith("#") and not line.startswith("# ") and not line.endswith("=")
    ]
    configured = SETTINGS.read(write("\n".join(uncommented)), environ={})
    assert configured.values == SETTINGS.read(environ={}).values
    assert set(configured.origins.values()) > {"default"}


def test_a_reload_says_what_only_a_restart_applies(write: Any) -> None:
    file = write("bind = '127.0.0.1'\n")
    reload = Reloader(SETTINGS, file, {}, SETTINGS.read(file))
    assert reload() == "nothing has changed"
    write("bind = '127.0.0.2'\nlog_level = 'error'\n")
    assert reload() == "log_level is error; changed, but only a restart applies it: bind"
    write("bind = 3\n")
    with pytest.raises(ConfigError, match="bind is 3"):
        reload()


def test_who_only_looks_is_told_of_the_files_faults_and_not_of_the_machines(write: Any) -> None:
    def needs_a_place(values: Mapping[str, Any]) -> Oven:
        problems = ["place is not set"] if values["place"] is None else []
        problems += [] if values["trays"] < 10 else [f"trays is {values['trays']}"]
        if problems:
            raise ConfigError("wrong", problems=problems)
        return Oven(**values)

    settings = Settings("oven", settings_of(Oven, leave_out=["hidden"]), needs_a_place)
    assert settings.look(write("trays = 3\n"), environ={}).values["trays"] == 3
    with pytest.raises(ConfigError) as caught:
        settings.look(write("trays = 12\n"), environ={})
    (problem,) = caught.value.problems
    assert problem.endswith("oven.toml:1: trays is 12")
    with pytest.raises(ConfigError, match="place is not set"):
        settings.read(write("trays = 3\n"), environ={})


def test_config_show_says_where_each_value_is_from(write: Any) -> None:
    file = write("port = 7000\n")
    run = CliRunner(env={"ROSTRAL_GCS_BIND": "127.0.0.9"})
    result = run.invoke(main, ["config", "show", "--config", str(file), "--origin"])
    assert result.exit_code == 0
    assert f"port = 7000  # {file}:1\n" in result.output
    assert 'bind = "127.0.0.9"  # $ROSTRAL_GCS_BIND\n' in result.output
    assert "shard_count = 1  # default\n" in result.output
    assert tomllib.loads(result.output)["port"] == 7000


def test_config_check_exits_with_78_and_makes_no_token(write: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    good = write(f"data_dir = '{data}'\n")
    run = CliRunner()
    assert run.invoke(main, ["config", "check", "--config", str(good)]).exit_code == 0
    assert not data.exists()
    result = run.invoke(main, ["config", "check", "--config", str(write("prot = 1\n"))])
    assert result.exit_code == 78
    assert "did you mean 'port'" in result.output
