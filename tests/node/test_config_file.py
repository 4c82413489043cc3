from __future__ import annotations

import resource
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.config import DEFAULTS, SETTINGS
from peerinfer.errors import StateUnusable, UsageError
from peerinfer_node.config_file import Shown, config_path, get_value, read_file, resolve, set_value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_without_file_flags_and_environment_there_are_the_defaults(path: Path) -> None:
    resolved = resolve({"name": None}, {"PATH": "/bin"}, path)
    assert resolved.config == DEFAULTS
    assert {shown.source for shown in resolved.show()} == {"default"}
    assert not path.exists()


def test_flags_go_before_environment_before_file_before_defaults(path: Path) -> None:
    path.write_text('name = "file"\ncpu_threads = 2\nmax_cache = "1GiB"\n')
    environ = {"PEERINFER_NAME": "environment", "PEERINFER_CPU_THREADS": "3"}
    resolved = resolve({"name": "flag", "mdns": False, "log_level": None}, environ, path)
    assert (resolved.config.name, resolved.config.cpu_threads, resolved.config.max_cache_bytes) == ("flag", 3, 2**30)
    assert resolved.config.mdns is False
    assert resolved.sources["name"] == "--name"
    assert resolved.sources["cpu_threads"] == "PEERINFER_CPU_THREADS"
    assert resolved.sources["max_cache"] == str(path)
    assert resolved.sources["mdns"] == "--no-mdns"
    assert resolved.sources["log_level"] == "default"
    assert resolved.get("max-cache") == Shown("max_cache", "1GiB", str(path))
    assert resolved.show()[0] == Shown("name", "flag", "--name")
    assert {shown.key for shown in resolved.show()} == SETTINGS.keys()


def test_flags_may_be_texts_or_what_argparse_made_of_them(path: Path) -> None:
    texts = resolve({"max_cache": "1GiB", "listen": ["/ip4/127.0.0.1/tcp/1"], "cpu_threads": "2"}, {}, None)
    values = resolve({"max_cache": 2**30, "listen": ("/ip4/127.0.0.1/tcp/1",), "cpu_threads": 2}, {}, None)
    assert texts.config == values.config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_cahe = 1", "there is no setting 'max_cahe'; did you mean max_cache?"),
        ("zzz = 1", "the settings are name, listen"),
        ("[node]\nname = 'x'", "there is no setting 'node'"),
        ("cpu_threads = 0", "cpu_threads: 0 is out of bounds"),
        ("mdns = 'perhaps'", "mdns: neither true nor false"),
        ("name = ['a']", "name: write one value"),
        ("name = 1979-05-27", "name: write one value"),
        ("name = 'a", "is not TOML: "),
        ("name = 'a'\nname = 'b'", "is not TOML: "),
        ("cpu_threads = " + "9" * 10_000, "is not TOML: "),
        ("name = " + "[" * 5000, "is not TOML: "),
        ("#" * 300_000, "larger than 256 KiB"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_the_file(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        resolve({}, {}, path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_environment_or_a_flag_names_its_place() -> None:
    with pytest.raises(UsageError, match=r"^PEERINFER_MAX_CACHE: not a size"):
        resolve({}, {"PEERINFER_MAX_CACHE": "much"}, None)
    with pytest.raises(UsageError, match=r"^--max-cache: not a size"):
        resolve({"max_cache": "much"}, {}, None)


def test_a_misspelt_variable_is_an_error_and_a_foreign_one_is_not() -> None:
    with pytest.raises(UsageError, match="PEERINFER_MAX_CAHE; did you mean PEERINFER_MAX_CACHE"):
        resolve({}, {"PEERINFER_MAX_CAHE": "1GiB"}, None)
    foreign = {"PEERINFER_HOME": "/x", "PEERINFER_CONFIG": "/y", "PEERINFER_SOMETHING_ELSE": "1"}
    assert resolve({}, foreign, None).config == DEFAULTS


def test_a_file_that_was_named_must_exist(path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*config\.toml"):
        resolve({}, {}, path, must_exist=True)
    assert config_path({}, path) == (path, False)
    assert config_path({"PEERINFER_CONFIG": "/a"}, path) == (Path("/a"), True)
    assert config_path({"PEERINFER_CONFIG": "/a"}, path, "/b") == (Path("/b"), True)


def test_a_file_that_cannot_be_read_is_said(path: Path) -> None:
    path.mkdir()
    with pytest.raises(UsageError, match=r"is a folder; remove it, or name a file with --config"):
        read_file(path)
    path.rmdir()
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(UsageError, match="UTF-8"):
        read_file(path)


def test_get_answers_value_and_source(path: Path) -> None:
    set_value(path, "log-format", "json")
    assert get_value("log_format", {}, path) == Shown("log_format", "json", str(path))
    assert get_value("log_format", {"PEERINFER_LOG_FORMAT": "text"}, path).source == "PEERINFER_LOG_FORMAT"
    with pytest.raises(UsageError, match="did you mean log_format"):
        get_value("logformat", {}, path)


def test_set_keeps_comments_order_and_the_other_lines(path: Path) -> None:
    path.write_text(
        "# my node\n"
        "name = 'old' # as on the label # really\n"
        "\n"
        "listen = [\n"
        "  '/ip4/127.0.0.1/tcp/1', # inside\n"
        "]\n"
        '"max_cache"="1GiB"\n'
        "# the end"
    )
    set_value(path, "name", 'new # "name"')
    set_value(path, "listen", ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"])
    set_value(path, "max_cache", "2GiB")
    set_value(path, "mdns", "no")
    set_value(path, "cpu_threads", "4")
    assert path.read_text() == (
        "# my node\n"
        'name = "new # \\"name\\"" # as on the label # really\n'
        "\n"
        'listen = ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"]\n'
        'max_cache = "2GiB"\n'
        "# the end\n"
        "mdns = false\n"
        "cpu_threads = 4\n"
    )
    set_value(path, "name", None)
    set_value(path, "listen", None)
    set_value(path, "bootstrap", None)
    assert path.read_text() == '# my node\n\nmax_cache = "2GiB"\n# the end\nmdns = false\ncpu_threads = 4\n'


def test_set_manages_windows_line_ends_and_odd_separators_inside_texts(path: Path) -> None:
    path.write_bytes("# a\u2028b\r\nname = 'x' # c\r\nmdns = true\r\n".encode())
    set_value(path, "name", "y")
    assert path.read_bytes().decode() == '# a\u2028b\nname = "y" # c\nmdns = true\n'


def test_set_makes_the_file_and_its_folder_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    set_value(path, "name", "box")
    assert path.read_text() == 'name = "box"\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["config.toml"]


def test_set_writes_through_a_link_and_keeps_the_mode(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("")
    real.chmod(0o640)
    link = tmp_path / "config.toml"
    link.symlink_to(real)
    set_value(link, "name", "box")
    assert link.is_symlink()
    assert real.read_text() == 'name = "box"\n'
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("before", "key", "value"),
    [
        ("", "max_cache", "much"),
        ("", "nonsense", "1"),
        ('name = """\nmdns = true\n"""\n', "mdns", "no"),
        ("name = 'x'\nnonsense = 1\n", "name", "y"),
        ("cpu_threads = 0\n", "name", "y"),
        ("[table]\n", "name", "y"),
        ("name = \n", "name", "y"),
    ],
)
def test_set_leaves_the_file_alone_when_it_cannot_be_done(path: Path, before: str, key: str, value: str) -> None:
    path.write_text(before)
    with pytest.raises(UsageError):
        set_value(path, key, value)
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("text", "key", "value", "said"),
    [
        ("max_temp = 0\n", "name", "y", "PATH: max_temp: 0 is out of bounds"),
        ("nonsense = 1\n", "name", "y", "PATH: there is no setting 'nonsense'"),
        ("", "max_temp", "hot", "max_temp: not a number: 'hot'"),
        ('listen = ["/ip4/0.0.0.0/tcp/1", "/ip4/0.0.0.0/tcp/1"]\n', "name", "y", "PATH: listen: "),
    ],
)
def test_set_says_where_the_value_stands_that_is_wrong(path: Path, text: str, key: str, value: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        set_value(path, key, value)
    assert str(caught.value).startswith(said.replace("PATH", str(path)))


def test_set_repairs_a_value_that_was_wrong(path: Path) -> None:
    path.write_text("cpu_threads = 0\n")
    set_value(path, "cpu_threads", "auto")
    assert path.read_text() == 'cpu_threads = "auto"\n'
    assert resolve({}, {}, path).config.cpu_threads is None


def test_set_repairs_one_of_two_values_that_were_wrong_and_says_which_is_left(path: Path) -> None:
    path.write_text('cpu_threads = 0\nmax_cache = "much"\n')
    left = set_value(path, "cpu_threads", None)
    assert left.startswith(f"{path}: max_cache: not a size")
    assert path.read_text() == 'max_cache = "much"\n'
    assert set_value(path, "max_cache", "3GiB") == ""
    resolve({}, {}, path)


def test_set_names_the_table_that_swallows_its_line(path: Path) -> None:
    path.write_text("[foo]\n")
    with pytest.raises(UsageError, match="there is no setting 'foo'"):
        set_value(path, "max_cache", "3GiB")


def test_a_full_disk_leaves_the_old_file_whole(path: Path) -> None:
    path.write_text("# " + "x" * 5000 + "\n")
    before = path.read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(StateUnusable, match="cannot write"):
            set_value(path, "name", "box")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir()] == ["config.toml"]


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=64))
def test_any_name_that_is_set_is_read_back(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("set") / "config.toml"
    stripped = name.strip()
    if not stripped.isprintable():
        return
    set_value(path, "name", name)
    assert tomllib.loads(path.read_text()) == {"name": stripped}
    assert resolve({}, {}, path).config.name == stripped
