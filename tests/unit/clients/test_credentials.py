"""The server's address and the key, by argument, environment and file."""

import sys
from pathlib import Path

import pytest
from fake_api import client

import tempo_client
from tempo_client import Tempo
from tempo_client._credentials import find_api_key, find_base_url


def test_the_key_comes_from_the_environment_a_file_or_the_data_directory(tmp_path: Path) -> None:
    key_file = tmp_path / "named.key"
    key_file.write_text("tk_named\n")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "admin.key").write_text("tk_default\n")
    environ = {"TEMPO_DATA_DIR": str(data_dir)}
    assert find_api_key(environ) == "tk_default"
    environ |= {"TEMPO_API_KEY_FILE": str(key_file)}
    assert find_api_key(environ) == "tk_named"
    assert find_api_key(environ | {"TEMPO_API_KEY": " tk_given "}) == "tk_given"


def test_an_error_names_the_key_file_that_is_empty_or_missing(tmp_path: Path) -> None:
    key_file = tmp_path / "named.key"
    environ = {"TEMPO_API_KEY_FILE": str(key_file)}
    with pytest.raises(tempo_client.ConfigurationError, match=r"named\.key cannot .*_API_KEY"):
        find_api_key(environ)
    key_file.write_text("\n")
    with pytest.raises(tempo_client.ConfigurationError, match=r"named\.key is empty"):
        find_api_key(environ)


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_base_url({}) == "http://127.0.0.1:8000"
    monkeypatch.setenv("TEMPO_BASE_URL", "http://elsewhere:9/")
    with Tempo(api_key="tk_x") as tempo:
        assert tempo.base_url == "http://elsewhere:9"


@pytest.mark.parametrize(
    "url", ["http://there", "http://there/", "http://there/v1", "http://there/v1/"]
)
def test_the_address_of_the_openai_routes_is_accepted_too(url: str) -> None:
    assert find_base_url({"TEMPO_BASE_URL": url}) == "http://there"


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(
        tempo_client.ConfigurationError, match="'there:8000' is no URL; write http://there:8000"
    ):
        find_base_url({"TEMPO_BASE_URL": "there:8000"})


def test_a_misspelt_variable_is_refused_with_the_right_name() -> None:
    with pytest.raises(
        tempo_client.ConfigurationError, match="TEMPO_BASE_ULR; did you mean TEMPO_BASE_URL"
    ):
        find_base_url({"TEMPO_BASE_ULR": "http://there"})
    others = {"TEMPO_VLLM_API_KEY": "k", "TEMP_BASE_URL": "x", "TEMPO_BASE_URL": "http://there"}
    assert find_base_url(others) == "http://there"


def test_openais_client_is_made_for_the_same_server_without_the_admin_key() -> None:
    with client({}) as tempo, tempo.openai() as official:
        assert str(official.base_url) == "http://tempo/v1/"
        assert official.api_key != "tk_x"


def test_an_error_says_how_to_install_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    tempo = client({})
    with tempo, pytest.raises(tempo_client.ConfigurationError, match="pip install openai"):
        tempo.openai()
