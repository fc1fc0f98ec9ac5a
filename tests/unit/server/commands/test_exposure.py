"""A port that other machines can reach needs a users' key."""

import pytest

from tempo_server.commands.checks import CheckError
from tempo_server.commands.exposure import check_exposure, users_key
from tempo_server.commands.flags import bound_host, flag_value, http_url, reachable_host

PUBLIC = ["0.0.0.0", "::", "", "0", "10.1.2.3", "fe80::1", "169.254.0.1", "no.such.name.invalid"]
LOCAL = ["127.0.0.1", "localhost", "::1", "127.1.2.3"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["m", "--port", "1"], "1"),
        (["m", "--port=1"], "1"),
        (["m", "--port", "2", "--port=1"], "1"),
        (["m", "--port"], ""),
        (["m", "--portal", "1"], None),
    ],
)
def test_flags_are_read_as_vllm_reads_them(arguments: list[str], value: str | None) -> None:
    assert flag_value("--port", arguments) == value


@pytest.mark.parametrize("host", PUBLIC)
@pytest.mark.parametrize("spelling", ["--host {}", "--host={}"])
def test_a_public_address_without_a_key_is_refused(host: str, spelling: str) -> None:
    arguments = ["m", *spelling.format(host).split(" ")]
    with pytest.raises(
        CheckError, match=r"without a key; give --api-key KEY, or --host 127\.0\.0\.1"
    ):
        check_exposure(arguments, "")
    with pytest.raises(CheckError):
        check_exposure(arguments, "  ")
    check_exposure(arguments, "key")
    check_exposure([*arguments, "--api-key", "key"], "")
    check_exposure([*arguments, "--api_key=key"], "")
    check_exposure([*arguments, "--insecure-public"], "")
    check_exposure([*arguments, "--insecure_public"], "")


@pytest.mark.parametrize("host", LOCAL)
def test_an_address_of_this_machine_needs_no_key(host: str) -> None:
    check_exposure(["m", "--host", host], "")


def test_without_a_flag_the_address_is_this_machine_s_own() -> None:
    assert bound_host(["m"]) == "127.0.0.1"
    check_exposure(["m"], "")


def test_a_unix_socket_is_not_public() -> None:
    check_exposure(["m", "--uds", "/run/x.sock", "--host", "0.0.0.0"], "")


@pytest.mark.parametrize(
    "flag", [["--api-key", ""], ["--api-key="], ["--api_key", " "], ["--api-key"]]
)
def test_an_empty_key_is_refused_wherever_vllm_listens(flag: list[str]) -> None:
    with pytest.raises(CheckError, match="--api-key is empty"):
        users_key(["m", *flag], "key")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("127.0.0.2", "http://127.0.0.2:1"),
        ("name", "http://name:1"),
    ],
)
def test_this_machine_reaches_its_server_at_an_address_that_leads_there(
    host: str, url: str
) -> None:
    assert http_url(reachable_host(host), 1) == url
