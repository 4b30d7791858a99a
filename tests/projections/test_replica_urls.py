"""The URL of the read replicas names one host or several, in libpq's forms."""

import pytest

from projections.replica_urls import REPLICAS_MAX, place, split

SPLIT = {
    "": (),
    "postgresql://u:p@a:1/db": ("postgresql://u:p@a:1/db",),
    "postgresql://u:p@a:1,b,c:3/db": (
        "postgresql://u:p@a:1/db",
        "postgresql://u:p@b:5432/db",
        "postgresql://u:p@c:3/db",
    ),
    "postgresql://u@[::1]:7,[::2]/db": ("postgresql://u@[::1]:7/db", "postgresql://u@[::2]:5432/db"),
    "postgresql://a,b/db?port=6000": ("postgresql://a:6000/db", "postgresql://b:6000/db"),
    "postgresql:///db?host=a,b&port=1,2&user=u": ("postgresql://a:1/db?user=u", "postgresql://b:2/db?user=u"),
    "postgresql://a:1,a:1/db": ("postgresql://a:1/db",),
    "postgresql://a:1/db?target_session_attrs=prefer-standby&sslrootcert=/etc/ca.crt": (
        "postgresql://a:1/db?sslrootcert=/etc/ca.crt",
    ),
}


@pytest.mark.parametrize("url", SPLIT)
def test_each_host_gets_a_url_of_its_own(url: str) -> None:
    assert split(url) == SPLIT[url]


REFUSED = {
    "postgresql://a,b/db?target_session_attrs=primary": "must not ask for a primary",
    "postgresql://a,b/db?target_session_attrs=read-write": "must not ask for a primary",
    "postgresql:///db": "one of them is empty",
    "postgresql://a:1,,c:1/db": "one of them is empty",
    "postgresql:///db?host=/run/postgresql": "not directories of sockets",
    f"postgresql://{','.join(f'h{n}' for n in range(REPLICAS_MAX + 1))}/db": "at most 16 hosts",
}


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_names_no_replicas_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[url]):
        split(url)


def test_a_place_has_no_credentials() -> None:
    assert place("postgresql://u:p@a:1/db") == "a:1"
