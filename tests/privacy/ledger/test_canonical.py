"""Canonical text: what the well-kept library writes, for every value that JSON can hold."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import InvalidRequest
from privacy.events import Unit
from privacy.ledger import canonical


def unsafe(x: float) -> bool:
    """Written as an integer that JSON cannot hold exactly."""
    return x.is_integer() and 2**53 <= abs(x) < 1e21


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not unsafe(x))
    | st.text()
    | st.sampled_from(
        ["\x00\x1f\x7f", '"\\/', "\b\f\n\r\t", "\u2028", "é", "\U0001f600", Unit.RECORD]
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_it_is_what_rfc8785_says(value):
    text = canonical.encode(value)
    assert text.encode() == rfc8785.dumps(value)
    assert canonical.encode(canonical.decode(text)) == text


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        2**53,
        2.0**53,
        -1e20,
        -(2**53),
        "\ud800",
        {1: 2},
        {"\ud800": 1},
        object(),
    ],
)
def test_what_has_no_canonical_text_is_refused(value):
    for wrapped in (value, [value], {"a": value}):
        with pytest.raises(InvalidRequest):
            canonical.encode(wrapped)


def test_the_published_example():
    """RFC 8785, section 3.2.2: input and output."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical.encode(value) == expected
