"""The service's other side, for whoever tries or tests a worker: fill it, break it, look inside.

Not part of the contract. It needs no token and meets no fault, so bind the service to loopback.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.demo.bookings import NewBooking
from worker.demo.dice import Dice
from worker.demo.faults import Faults, explain
from worker.demo.orders import NewOrder
from worker.demo.seed import SeedSpec
from worker.demo.store import Store

_Handler = Callable[[Request], Awaitable[Response]]
_ORDERS = TypeAdapter(list[NewOrder])
_BOOKINGS = TypeAdapter(list[NewBooking])
_FAULTS = TypeAdapter(dict[str, object])


class Control:
    """The routes under `/demo/`."""

    def __init__(self, store: Store, dice: Dice) -> None:
        self._store = store
        self._dice = dice

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/demo/seed", _checked(self.seed), methods=["POST"]),
            Route("/demo/orders", _checked(self.add_orders), methods=["POST"]),
            Route("/demo/bookings", _checked(self.add_bookings), methods=["POST"]),
            Route("/demo/faults", self.get_faults, methods=["GET"]),
            Route("/demo/faults", _checked(self.put_faults), methods=["PUT"]),
            Route("/demo/reset", self.reset, methods=["POST"]),
            Route("/demo/effects", self.effects, methods=["GET"]),
            Route("/demo/requests", self.requests, methods=["GET"]),
            Route("/demo/summary", self.summary, methods=["GET"]),
        ]

    async def seed(self, request: Request) -> Response:
        """Add what a `SeedSpec` asks for; answers the ids."""
        spec = SeedSpec.model_validate_json(await request.body())
        return JSONResponse(self._store.seed(spec), 201)

    async def add_orders(self, request: Request) -> Response:
        """Add the `NewOrder`s of a list."""
        orders = _ORDERS.validate_json(await request.body())
        self._store.orders.add(orders)
        return JSONResponse({"added": len(orders)}, 201)

    async def add_bookings(self, request: Request) -> Response:
        """Add the `NewBooking`s of a list."""
        bookings = _BOOKINGS.validate_json(await request.body())
        self._store.bookings.add(bookings)
        return JSONResponse({"added": len(bookings)}, 201)

    async def get_faults(self, request: Request) -> Response:
        """The faults in force, their counters counted down."""
        return JSONResponse(self._dice.faults.model_dump())

    async def put_faults(self, request: Request) -> Response:
        """These faults from now on; what is not named returns to its default."""
        self._dice.load(Faults.of(_FAULTS.validate_json(await request.body())))
        return await self.get_faults(request)

    async def reset(self, request: Request) -> Response:
        """Forget everything, the faults included."""
        self._store.reset()
        self._dice.load(Faults())
        return JSONResponse({})

    async def effects(self, request: Request) -> Response:
        """Every effect there was."""
        return JSONResponse({"items": self._store.effects()})

    async def requests(self, request: Request) -> Response:
        """Every request there was."""
        return JSONResponse({"items": self._store.requests()})

    async def summary(self, request: Request) -> Response:
        """The counts."""
        return JSONResponse(self._store.summary())


def _checked(handler: _Handler) -> _Handler:
    """Answer 400 to what does not fit, 409 to an id that is taken."""

    async def checked(request: Request) -> Response:
        try:
            return await handler(request)
        except ValidationError as exc:
            return JSONResponse({"detail": explain(exc)}, 400)
        except ValueError as exc:
            return JSONResponse({"detail": str(exc)}, 400)
        except sqlite3.IntegrityError:
            return JSONResponse({"detail": "an id is taken already; nothing was added"}, 409)

    return checked
