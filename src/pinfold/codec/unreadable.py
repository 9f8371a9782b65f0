"""What msgspec raises for bytes that are not of the type wanted: more than its own errors."""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""To be caught wherever stored or received bytes are decoded: text that is not UTF-8 and values
nested too deeply have errors of their own."""
