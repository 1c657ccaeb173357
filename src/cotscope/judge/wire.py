"""The connection to an endpoint: one reply, whole, in time and of a bearable size, whatever the endpoint does.

The `openai` client's own time-outs begin again with every byte, and it reads replies of any size. Here its calls run in
an event loop of their own, which can end a call at any point, and bodies are counted as they come.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from ..errors import JudgeError
from .question import short

INSTALL = "pip install 'cotscope[judge]'"
LONGEST_REPLY = 4_000_000  # bytes; a thousand times what is asked for
T = TypeVar("T")


class TooLong(Exception):
    """The reply is longer than what is read."""


class Damaged(Exception):
    """What came is no reply."""


class Wire:
    """Sends chat completions and brings back their bodies. Safe to use from several threads; close it.

    Args:
        url: the base URL.
        key: the API key.
        timeout: seconds for a whole reply, from the sending of the question on.

    Raises: JudgeError if the openai package is absent or can't be set up, as with a proxy that it does not know.
    """

    def __init__(self, url: str, key: str, timeout: float) -> None:
        try:
            import openai
        except ImportError as error:
            raise JudgeError("the LLM judge needs the openai package", remedy=INSTALL) from error
        self._timeout = timeout
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        try:
            http = openai.DefaultAsyncHttpxClient(timeout=timeout, event_hooks={"response": [_bound]})
            # A compressed reply of 4 MB may unpack to gigabytes.
            plain = {"Accept-Encoding": "identity"}
            self._client = openai.AsyncOpenAI(
                base_url=url, api_key=key, max_retries=0, timeout=timeout, default_headers=plain, http_client=http
            )
        except Exception as error:  # whatever a proxy or a certificate in the environment makes it raise
            self._loop.close()
            said = f"{type(error).__name__}: {error}".replace(key, "[key]")
            raise JudgeError("the connection to the judge can't be set up", got=short(said, 200)) from None
        self._thread.start()

    def ask(self, arguments: dict[str, Any]) -> bytes:
        """The body of the reply to one call.

        Raises: TimeoutError, TooLong, Damaged; openai.OpenAIError as the client does.
        """
        return self._run(self._ask(arguments))

    async def _ask(self, arguments: dict[str, Any]) -> bytes:
        async with asyncio.timeout(self._timeout):
            reply = await self._client.chat.completions.with_raw_response.create(**arguments)
            return bytes(reply.http_response.content)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """End the connections."""
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _bound(response: Any) -> None:
    """Limit what will be read of a response, and take its text for UTF-8 whatever it claims. Raises: Damaged."""
    if (coding := response.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise Damaged(f"it is compressed, which was not asked for: {coding}")
    response.encoding = "utf-8"  # codecs such as "zlib" are no encodings of text, but may be named
    response.stream = _counted(response.stream)


def _counted(stream: Any) -> Any:
    """The same stream, which ends with TooLong where it is too long."""
    # The HTTP library is the client's own choice, so the class that its streams have is asked of one of them.
    base: Any = next(kind for kind in type(stream).__mro__ if kind.__name__ == "AsyncByteStream")

    class Counted(base):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            read = 0
            async for part in stream:
                read += len(part)
                if read > LONGEST_REPLY:
                    raise TooLong
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Counted()
