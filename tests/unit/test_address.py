"""One strict reader of every address: what is wrong is said before anything is sent."""

import pytest

from branchynet.errors import InvalidInput
from branchynet.serving.address import Address, checked_host

GOOD = [
    ("127.0.0.1:8001", "127.0.0.1", 8001),
    ("localhost:1", "localhost", 1),
    ("edge-1.example.org:65535", "edge-1.example.org", 65535),
    ("edge.example.org.:80", "edge.example.org.", 80),
    ("branchynet_cloud_1:8011", "branchynet_cloud_1", 8011),
    ("[::1]:8001", "::1", 8001),
    ("[fe80::1%eth0]:8001", "fe80::1%eth0", 8001),
    ("[2001:db8::7]:8001", "2001:db8::7", 8001),
]

BAD = [
    ("", "it has no port"),
    ("127.0.0.1", "it has no port"),
    ("localhost", "it has no port"),
    ("[::1]", "it has no port"),
    (":8001", "it has no host"),
    ("http://127.0.0.1:8001", "it begins with http://,"),
    ("https://edge:8001", "it begins with https://,"),
    ("grpc://edge:8001", "it begins with grpc://,"),
    ("dns:///edge:8001", "it begins with dns:///,"),
    ("unix:/run/edge", "it begins with unix:/,"),
    ("unix:edge", "its port is 'edge'"),
    ("dns:edge:8001", "an IPv6 host stands in brackets"),
    ("::1:8011", "an IPv6 host stands in brackets"),
    ("::1", "an IPv6 host stands in brackets"),
    ("[::1:8011", "its brackets do not match"),
    ("::1]:8011", "its brackets do not match"),
    ("[127.0.0.1]:8001", "only an IPv6 host stands in brackets"),
    ("[::g]:8001", "'::g' is no IP address"),
    ("127.0.0.1:0", "its port is '0', it must be 1 to 65535"),
    ("127.0.0.1:99999", "its port is '99999'"),
    ("127.0.0.1:", "its port is ''"),
    ("127.0.0.1:-1", "its port is '-1'"),
    ("127.0.0.1:+1", "its port is '\\+1'"),
    ("127.0.0.1:٨", "its port is '٨'"),
    ("127.0.0.1:80 ", "its port is '80 '"),
    ("127.0.0.1:8001/classify", "its port is '8001/classify'"),
    ("300.0.0.1:8001", "'300.0.0.1' is no IP address"),
    ("127.1:8001", "'127.1' is no IP address"),
    (" edge:8001", "' edge' is no name of a host"),
    ("edge one:8001", "'edge one' is no name of a host"),
    ("edge..org:8001", "'edge..org' is no name of a host"),
    ("-edge:8001", "'-edge' is no name of a host"),
    (".:8001", "its host is empty"),
    ("user@edge:8001", "'user@edge' is no name of a host"),
    (f"{'a' * 64}:8001", "is no name of a host"),
]


@pytest.mark.parametrize(("text", "host", "port"), GOOD)
def test_an_address_is_read_and_written_as_it_was(text, host, port):
    address = Address.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, text)


@pytest.mark.parametrize(("text", "fault"), BAD)
def test_what_is_no_address_is_refused_with_what_is_wrong_and_how_it_is_written(text, fault):
    with pytest.raises(InvalidInput, match=fault) as refused:
        Address.parse(text)
    assert repr(text) in str(refused.value)
    assert "127.0.0.1:8001" in str(refused.value)


def test_who_listens_may_leave_the_port_to_the_system():
    assert Address.parse("127.0.0.1:0", lowest_port=0).port == 0


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("LocalHost:1", True),
        ("10.0.0.1:1", False),
        ("edge:1", False),
        ("[2001:db8::7]:1", False),
    ],
)
def test_it_knows_this_machine(text, loopback):
    assert Address.parse(text).is_loopback == loopback


@pytest.mark.parametrize(
    ("text", "host"),
    [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("::1", "::1"), ("[::1]", "::1"), ("localhost", "localhost")],
)
def test_a_host_to_listen_on_is_taken_with_and_without_brackets(text, host):
    assert checked_host(text) == host


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "its host is empty"),
        ("*", "is no name of a host"),
        ("127.0.0.1:8001", "it has a port"),
        ("[::1]:8001", "it has a port"),
        ("http://127.0.0.1", "it begins with http://,"),
        ("0.0.0", "'0.0.0' is no IP address"),
        ("[localhost]", "is no name of a host"),
        ("::1]:", "it has a port"),
        (":::", "is no IP address"),
    ],
)
def test_what_is_no_host_is_refused(text, fault):
    with pytest.raises(InvalidInput, match=fault):
        checked_host(text)
