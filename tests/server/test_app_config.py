"""Settings: one table, four sources, clear refusals."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from engine.errors import Invalid, Unavailable
from server.config import BY_NAME, SETTINGS, Config, add_arguments, table

RELIED_ON = {  # what scripts, documents and other programs use
    "--host": "WORKBENCH_HOST", "--port": "WORKBENCH_PORT", "--data-dir": "WORKBENCH_DATA_DIR",
    "--database-url": "WORKBENCH_DATABASE_URL", "--scheduler": "WORKBENCH_SCHEDULER",
    "--csv-root": "WORKBENCH_CSV_ROOT", "--rate-limit": "WORKBENCH_RATE_LIMIT", "--demo": "WORKBENCH_DEMO",
    "--api-only": "WORKBENCH_API_ONLY", "--no-browser": "WORKBENCH_NO_BROWSER", "--gekko-ui": "WORKBENCH_GEKKO_UI",
}


def test_the_table_and_the_dataclass_agree() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    assert defaults == {setting.name: setting.default for setting in SETTINGS}
    assert Config.load(env={}) == Config()


def test_the_flags_that_others_rely_on_are_there() -> None:
    options = {setting.option: setting.variable for setting in SETTINGS}
    assert RELIED_ON.items() <= options.items()
    assert Config().port == 8888 and Config().rate_limit == 6000 and Config().host == "127.0.0.1"


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "workbench.toml"
    file.write_text('port = 1\nhost = "a.example"\nrate_limit = 3\norigins = ["https://a.example"]\ndemo = true\n')
    env = {"WORKBENCH_PORT": "2", "WORKBENCH_HOST": "b.example", "WORKBENCH_CONFIG": str(file), "WORKBENCH_WORKERS": ""}
    config = Config.load(["--port", "3", "--no-browser", "--max-body", "2M"], env)
    assert (config.port, config.host, config.rate_limit, config.workers) == (3, "b.example", 3, 0)
    assert config.origins == ("https://a.example",) and config.demo and config.no_browser
    assert config.max_body == 2 * 2**20
    assert Config.load(["--no-demo"], env).demo is False
    assert Config.load(["--port", "3"], env, port=4).port == 4


def test_an_empty_token_is_a_decision_and_other_empty_variables_are_none() -> None:
    assert Config.load(env={"WORKBENCH_TOKEN": ""}).open
    assert not Config.load(env={"WORKBENCH_HOST": "", "WORKBENCH_PORT": ""}).open
    assert Config.load(env={"WORKBENCH_TOKEN": "a-long-secret"}).token == "a-long-secret"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "desk.example", ""])
def test_no_authentication_only_on_loopback(host: str) -> None:
    with pytest.raises(Invalid, match="set WORKBENCH_TOKEN") as refused:
        Config(token="", host=host)
    assert refused.value.problems[0].field == "token"
    assert not Config(host=host).loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_by_any_name(host: str) -> None:
    assert Config(token="", host=host).loopback


@pytest.mark.parametrize(("name", "value"), [
    ("port", "x"), ("port", "70000"), ("port", "-1"), ("rate_limit", "-1"), ("rate_limit", "1.5"),
    ("log_level", "loud"), ("demo", "perhaps"), ("max_body", "lots"), ("session_days", "nan"), ("token", "short"),
    ("token", "with space in it"), ("origins", "desk.example"), ("origins", "https://a.example/path"),
    ("public_url", "desk.example"), ("public_url", "https://desk.example/"),
])
def test_a_wrong_value_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(Invalid) as refused:
        Config.load(env={f"WORKBENCH_{name.upper()}": value})
    assert refused.value.problems[0].field == name
    assert refused.value.problems[0].remedy or name in ("demo",)


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refused:
        Config.load(env={"WORKBENCH_PORT": "x", "WORKBENCH_WORKERS": "y"})
    assert {problem.field for problem in refused.value.problems} == {"port", "workers"}
    (tmp_path / "a.toml").write_text("prot = 1")
    with pytest.raises(Invalid, match="no such setting"):
        Config.load(["--config", str(tmp_path / "a.toml")], {})
    (tmp_path / "a.toml").write_text("port = ")
    with pytest.raises(Invalid, match="is not TOML"):
        Config.load(["--config", str(tmp_path / "a.toml")], {})
    with pytest.raises(Invalid, match="cannot be read"):
        Config.load(["--config", str(tmp_path / "none.toml")], {})


def test_a_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(Unavailable, match="cannot be made") as caught:
            Config(data_dir=tmp_path / place).make_data_dir()
        assert caught.value.field == "data_dir" and "--data-dir" in caught.value.remedy
    Config(data_dir=tmp_path / "a" / "b").make_data_dir()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_remedy_names_large_bounds_in_full() -> None:
    with pytest.raises(Invalid, match="from 0 to 1000000000"):
        BY_NAME["rate_limit"].read("-1")


def test_secrets_have_no_flag() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert "--token" not in parser.format_help()


def test_help_and_readme_table_show_every_setting() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text, rows = parser.format_help(), table()
    for setting in SETTINGS:
        assert not setting.flag or setting.option in text
        assert f"`{setting.variable}`" in rows
    assert all(row.count("|") == 5 for row in rows.splitlines())
