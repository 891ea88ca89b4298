"""What clients and operators may say about the cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import pytest

from router.cache.eviction import make_policy
from router.core.cache_key import Eligibility
from router.core.cache_policy import CachePlan, ScopePlan, apply_client_controls, read_client_controls
from router.core.events import RequestHeaders
from router.core.lookup import CachePolicy
from router.extproc.pb import extproc_pb2 as pb
from router.extproc.wire import decode

POLICY = CachePolicy(0.9, 3600.0, ())


def plan(*controls: str, max_ttl_s: float = 86_400.0) -> CachePlan:
    """The policy with these client controls."""
    return CachePlan(ScopePlan(), Eligibility(), {}, "v", controls=frozenset(controls), max_ttl_s=max_ttl_s)


def controlled(cache_plan: CachePlan, headers: dict[str, str]) -> CachePolicy:
    """The policy as an exchange makes it from a request's headers."""
    return apply_client_controls(POLICY, read_client_controls(cache_plan, headers), cache_plan.max_ttl_s)


ALL = plan("no-cache", "no-store", "max-age", "only-if-cached", "ttl")


@pytest.mark.parametrize(
    ("headers", "changed"),
    [
        ({}, {}),
        ({"cache-control": "no-cache"}, {"may_look_up": False}),
        ({"cache-control": "no-store"}, {"may_store": False}),
        ({"cache-control": "No-Cache, No-Store"}, {"may_look_up": False, "may_store": False}),
        ({"cache-control": "max-age=60"}, {"max_age_s": 60.0}),
        ({"cache-control": 'max-age="60", only-if-cached'}, {"max_age_s": 60.0, "only_if_cached": True}),
        ({"cache-control": "max-age=0"}, {"may_look_up": False, "max_age_s": 0.0}),
        ({"cache-control": "max-age=60, max-age=5"}, {"max_age_s": 5.0}),
        ({"cache-control": "max-age=soon"}, {"may_look_up": False, "max_age_s": 0.0}),
        ({"cache-control": "private, max-stale=5, foo"}, {}),
        ({"x-vsr-cache-ttl": "60"}, {"ttl_s": 60.0}),
        ({"x-vsr-cache-ttl": "999999999"}, {"ttl_s": 86_400.0}),
        ({"x-vsr-cache-ttl": "0"}, {"may_store": False, "ttl_s": 0.0}),
        ({"x-vsr-cache-ttl": "-5"}, {}),
        ({"x-vsr-cache-ttl": "soon"}, {}),
    ],
)
def test_what_a_client_may_control(headers: dict[str, str], changed: dict[str, object]) -> None:
    """Headers mean what HTTP says they mean, within the operator's limits."""
    cache_policy = controlled(ALL, headers)
    assert {
        name: value for name in CachePolicy.__slots__ if (value := getattr(cache_policy, name)) != getattr(POLICY, name)
    } == changed


def test_a_control_that_the_operator_does_not_allow_does_nothing() -> None:
    """An empty list of allowed controls allows none."""
    headers = {"cache-control": "no-cache, no-store, max-age=1, only-if-cached", "x-vsr-cache-ttl": "5"}
    assert controlled(plan(), headers) == POLICY
    assert controlled(plan("no-cache"), headers).may_look_up is False
    assert controlled(plan("no-cache"), headers).may_store is True


class TestScope:
    def test_principals_are_kept_apart_and_hidden(self) -> None:
        """Principals are separated by a keyed digest. The raw value is never kept."""
        scope = ScopePlan("authorization", b"key")
        alice, bob = scope.of({"authorization": "Bearer alice"}), scope.of({"authorization": "Bearer bob"})
        assert alice
        assert alice != bob
        assert "alice" not in alice
        assert alice == scope.of({"authorization": "Bearer alice"})
        assert alice != ScopePlan("authorization", b"other").of({"authorization": "Bearer alice"})
        assert alice != ScopePlan("x-team", b"key").of({"x-team": "Bearer alice"})

    @pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "  "}])
    def test_a_request_without_a_principal_shares_with_nobody(self, headers: dict[str, str]) -> None:
        """A request without a principal is not cached."""
        assert ScopePlan("authorization", b"key").of(headers) is None

    def test_all_share_where_the_operator_says_so(self) -> None:
        """This suits public questions."""
        assert ScopePlan("", b"key").of({}) == "global"

    @pytest.mark.parametrize("headers", [{}, {"authorization": " "}, {"x-api-key": "k"}])
    def test_a_client_without_the_required_header_shares_nothing(self, headers: dict[str, str]) -> None:
        """A cached answer would spare such a client the backend's own check."""
        scope = ScopePlan("", b"key", "authorization")
        assert scope.of(headers) is None
        assert scope.of({"authorization": "Bearer a"}) == scope.of({"authorization": "Bearer b"}) == "global"

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (b"Ren\xe9", b"Ren\xe8"),
            (b"Ren\xe9", "Ren\ufffd".encode()),
            (b"a\xa0", b"a"),
            ("a\u00a0".encode(), b"a"),
            ("\u2003a".encode(), b"a"),
            (b"a\x1c", b"a"),
        ],
    )
    def test_names_that_differ_in_a_byte_share_nothing(self, one: bytes, other: bytes) -> None:
        """This holds for any encoding, and for whatever Python takes for white space."""
        scope = ScopePlan("x-user", b"key")
        assert scope.of(sent(one)) != scope.of(sent(other))

    def test_white_space_of_http_is_no_part_of_a_name(self) -> None:
        """RFC 9110, 5.5, says which characters these are."""
        scope = ScopePlan("x-user", b"key")
        assert scope.of(sent(b" \tann\t ")) == scope.of(sent(b"ann"))


def sent(value: bytes) -> Mapping[str, str]:
    """A header as it comes from Envoy."""
    headers = pb.HeaderMap(headers=[pb.HeaderValue(key="x-user", raw_value=value)])
    _, event = decode(pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=headers)))
    assert isinstance(event, RequestHeaders)
    return event.headers


class TestEviction:
    def leaving(self, policy: str, uses: str = "") -> list[str]:
        """The order in which a, b, c and d are evicted after these uses."""
        entries = OrderedDict.fromkeys("abcd")
        order = make_policy(policy, entries)
        for entry in "abcd":
            order.add(entry)
        for entry in uses:
            order.use(entry)
        left = []
        for _ in range(4):
            left.append(order.next())
            order.remove(left[-1])
            del entries[left[-1]]
        return left

    def test_first_in_first_out(self) -> None:
        """The oldest entry is evicted first, however often it was used."""
        assert self.leaving("fifo", "aab") == list("abcd")

    def test_least_recently_used(self) -> None:
        """A use moves an entry behind all others."""
        assert self.leaving("lru", "ac") == list("bdac")

    def test_least_frequently_used(self) -> None:
        """Of entries with equal use, the oldest is evicted first."""
        assert self.leaving("lfu", "aabddd") == list("cbad")

    @pytest.mark.parametrize("policy", ["fifo", "lru", "lfu"])
    def test_an_entry_may_go_out_of_turn(self, policy: str) -> None:
        """An expired or invalidated entry can leave at any time."""
        entries = OrderedDict.fromkeys("abc")
        order = make_policy(policy, entries)
        for entry in "abc":
            order.add(entry)
        order.remove("a")
        del entries["a"]
        assert order.next() == "b"
