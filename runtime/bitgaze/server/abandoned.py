"""Stops the work for a request whose client has gone, so that it does not delay others."""

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class StopAbandoned:
    """ASGI middleware that cancels the application when the client closes its connection.

    Work that already runs in a thread ends first; what waits for a thread never starts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_body = anyio.Event()  # the whole of it; until then the application reads

        async def receive_body() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                has_body.set()
            return message

        async def watch() -> None:
            await has_body.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        if scope["method"] in ("GET", "HEAD"):
            has_body.set()
        errors: list[Exception] = []
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                await self._app(scope, receive_body, send)
            except Exception as error:  # raised below: a task group would wrap it
                errors.append(error)
            group.cancel_scope.cancel()
        if errors:
            raise errors[0]
