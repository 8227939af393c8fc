"""Addresses: every form that runs here, and what is said of the others."""

import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.margo import transport
from mochi.margo.address import SmAddress, TcpAddress, canonical, parse, protocol
from mochi.margo.errors import AddressError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("na+sm", SmAddress()),
        ("sm", SmAddress()),
        ("na+sm://", SmAddress()),
        ("na+sm://name", SmAddress("name")),
        ("na+sm://123-0", SmAddress("123-0")),
        ("tcp", TcpAddress()),
        ("ofi+tcp", TcpAddress()),
        ("tcp://", TcpAddress()),
        ("ofi+tcp://", TcpAddress()),
        ("ofi+tcp://10.0.0.1", TcpAddress("10.0.0.1")),
        ("ofi+tcp://10.0.0.1:4000", TcpAddress("10.0.0.1", 4000)),
        ("tcp://node7:4000", TcpAddress("node7", 4000)),
        ("ofi+tcp://eth0", TcpAddress("eth0")),
        ("ofi+tcp://:4000", TcpAddress("", 4000)),
        ("ofi+tcp://eth0/10.0.0.1:4000", TcpAddress("10.0.0.1", 4000)),
        ("ofi+tcp://eth0/:4000", TcpAddress("", 4000)),
        ("ofi+tcp;ofi_rxm://10.0.0.1:4000", TcpAddress("10.0.0.1", 4000, "tcp;ofi_rxm")),
        ("verbs", TcpAddress(fabric="verbs")),
        ("ofi+verbs://ib0", TcpAddress("ib0", fabric="verbs")),
        ("ofi+verbs;ofi_rxm://10.0.0.1:4000", TcpAddress("10.0.0.1", 4000, "verbs")),
        ("cxi", TcpAddress(fabric="cxi")),
        ("ofi+cxi://10.0.0.1:4000", TcpAddress("10.0.0.1", 4000, "cxi")),
        ("efa", TcpAddress(fabric="efa")),
        ("ofi+tcp://[::1]:4000", TcpAddress("::1", 4000)),
        ("ofi+tcp://[::1]", TcpAddress("::1")),
    ],
)
def test_the_forms_of_an_address(text: str, address: SmAddress | TcpAddress) -> None:
    assert parse(text) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("verbs://mlx5_0/10.0.0.1:4000", TcpAddress("10.0.0.1", 4000, "verbs", "mlx5_0")),
        ("ofi+verbs://mlx5_0/:4000", TcpAddress("", 4000, "verbs", "mlx5_0")),
        ("ofi+cxi://cxi0", TcpAddress(fabric="cxi", card="cxi0")),
        ("ofi+cxi://cxi0:12", TcpAddress(fabric="cxi", card="cxi0", pid=12)),
        ("cxi://:510", TcpAddress(fabric="cxi", pid=510)),
    ],
)
def test_a_card_is_where_a_server_listens_and_no_matter_of_its_peers(text: str, address: TcpAddress) -> None:
    assert parse(text) == address
    assert parse(str(address)) == TcpAddress(address.host, address.port, address.fabric)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ofi+tpc://h:1", "did you mean 'ofi+tcp'"),
        ("na_sm", "did you mean 'na+sm'"),
        ("ucx+tcp", "no transport on UCX; use ofi+tcp"),
        ("ofi+shm://", "use na+sm"),
        ("vebrs", "did you mean 'verbs'"),
        ("cxi://cxi0:511", "511 is not the number of an endpoint, 0 to 510"),
        ("carrier+pigeon", "not one of na+sm, sm, ofi+tcp, tcp, ofi+verbs, ofi+cxi, ofi+efa"),
        ("10.0.0.1:4000", "did you mean 'ofi+tcp://10.0.0.1:4000'"),
        ("", "not one of"),
        ("na+sm://a/b", "at most 100 bytes and no '/'"),
        ("na+sm://" + "ü" * 51, "at most 100 bytes and no '/'"),
        ("tcp://h:65536", "port '65536'"),
        ("tcp://h:-1", "port '-1'"),
        ("tcp://h:" + "9" * 5000, "not a number from 0 to 65535"),
        ("tcp://h:٣", "not a number from 0 to 65535"),
        ("tcp://[::1:4000", "an IPv6 host is written"),
        ("tcp://[::1]4000", "an IPv6 host is written"),
        ("tcp://a..b:1", "'a..b' is not the name of a host"),
    ],
)
def test_what_is_said_of_a_wrong_address(text: str, problem: str) -> None:
    with pytest.raises(AddressError, match=re.escape(problem)):
        parse(text)


@given(
    st.one_of(
        st.text(),
        st.text().map("na+sm://".__add__),
        st.text().map("tcp://".__add__),
        st.text().map("cxi://".__add__),
    )
)
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = parse(text)
    except AddressError:
        return
    shown = parse(str(address))
    assert parse(str(shown)) == shown
    if isinstance(address, SmAddress) or not (address.card or address.pid is not None):
        assert shown == address


def test_a_protocol_has_one_spelling() -> None:
    spellings = [
        "sm://a",
        "na+sm",
        "tcp://h:1",
        "ofi+tcp",
        "ofi+tcp;ofi_rxm://h:1",
        "cxi://x",
        "verbs",
        "x://y",
    ]
    assert [protocol(text) for text in spellings] == [
        "na+sm",
        "na+sm",
        "ofi+tcp",
        "ofi+tcp",
        "ofi+tcp;ofi_rxm",
        "ofi+cxi",
        "ofi+verbs",
        "x",
    ]


@pytest.mark.parametrize(
    "text", ["na+sm", "sm", "na+sm://a-name", "tcp", "tcp://127.0.0.1", "tcp://lo", "tcp://[::1]"]
)
def test_the_printed_address_can_be_connected_to(text: str) -> None:
    try:
        listener, address = transport.listen(text)
    except AddressError:
        assert "::1" in text, "only IPv6 may be missing"
        pytest.skip("no IPv6 on this machine")
    with listener, transport.connect(address, 5) as peer:
        accepted = transport.accept(listener)
        assert accepted is not None
        with accepted:
            peer.sendall(b"x")
            accepted.setblocking(True)
            assert accepted.recv(1) == b"x"


@pytest.mark.parametrize("text", ["na+sm://taken", "tcp://127.0.0.1"])
def test_an_address_in_use_is_an_error(text: str) -> None:
    listener, address = transport.listen(text)
    with listener, pytest.raises(AddressError, match=r"cannot listen on .*in use"):
        transport.listen(address)


def test_servers_of_one_process_choose_different_names() -> None:
    (first, a), (second, b) = transport.listen("na+sm"), transport.listen("na+sm")
    with first, second:
        assert a != b


@pytest.mark.parametrize("text", ["na+sm://nobody-here", "tcp://127.0.0.1:1"])
def test_connecting_to_nobody_is_an_address_error(text: str) -> None:
    with pytest.raises(AddressError, match="nobody answers at"):
        transport.connect(text, 5)


def test_an_unknown_interface_or_host_cannot_be_listened_on() -> None:
    with pytest.raises(AddressError, match="cannot listen on"):
        transport.listen("tcp://no-such-interface0.invalid")


def test_a_connection_that_met_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def met_itself(*args: object) -> socket.socket:
        peer = socket.socket()
        peer.bind(("127.0.0.1", 0))
        peer.connect(peer.getsockname())
        return peer

    monkeypatch.setattr(socket, "create_connection", met_itself)
    with pytest.raises(AddressError, match="nobody listens there"):
        transport.connect("tcp://127.0.0.1:4000", 5)


@pytest.mark.parametrize(
    ("forms", "one"),
    [
        (("sm://a", "na+sm://a"), "na+sm://a"),
        (
            ("tcp://10.0.0.1:4000", "ofi+tcp://eth0/10.0.0.1:4000"),
            "ofi+tcp://10.0.0.1:4000",
        ),
        (("tcp://Node7:4000", "ofi+tcp://node7:04000"), "ofi+tcp://node7:4000"),
        (("tcp://[0:0::1]:4000", "ofi+tcp://[::1]:4000"), "ofi+tcp://[::1]:4000"),
        (("verbs://Node7:4000", "ofi+verbs;ofi_rxm://mlx5_0/node7:4000"), "ofi+verbs://node7:4000"),
        (("carrier+pigeon://node7",), "carrier+pigeon://node7"),
    ],
)
def test_an_address_has_one_form_in_which_it_is_compared(forms: tuple[str, ...], one: str) -> None:
    assert {canonical(form) for form in (*forms, one)} == {one}


@given(
    st.sampled_from(["tcp", "ofi+tcp", "sm", "na+sm", "what"]), st.text(max_size=12), st.integers(0, 99999)
)
def test_the_one_form_is_its_own_and_parses_alike(name: str, host: str, port: int) -> None:
    text = f"{name}://{host}:{port}"
    one = canonical(text)
    assert canonical(one) == one
    try:
        address = parse(text)
    except AddressError:
        assert one == text
    else:
        assert type(parse(one)) is type(address)
