"""MONAI Label's routes behind the guard: ``uvicorn neurobundle.label.asgi:app``. It needs MONAI Label.

MONAI Label infers within its event loop, so that nobody else is answered meanwhile, not even that the server is busy.
Here inference runs in a thread.
"""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import BackgroundTasks, Depends, File, Form, UploadFile
from fastapi.routing import APIRoute
from monailabel.app import app as routes
from monailabel.config import settings
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelException
from starlette.requests import Request
from starlette.responses import JSONResponse

from neurobundle.commands.label import HOSTS
from neurobundle.label.guard import LOOPBACK, Guard

#: Further pages that may use this server, with commas between them.
ORIGINS = "NEUROBUNDLE_LABEL_ORIGINS"

_INFER = "/infer/{model}"


def infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
    user: Annotated[User | None, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))] = None,
) -> object:
    """As MONAI Label's own route, in a thread: FastAPI runs what is not ``async`` in one."""
    return run_inference(background_tasks, model, image, session_id, params, file, label, output)


async def refused(request: Request, error: Exception) -> JSONResponse:
    """An error of the app as a sentence, which MONAI Label would answer with a traceback in its log and no word."""
    return JSONResponse({"detail": str(getattr(error, "msg", error))}, status_code=422)


def words(variable: str) -> list[str]:
    """The words of an environment variable, with commas between them."""
    return [word for word in os.environ.get(variable, "").split(",") if word]


routes.router.routes[:] = [
    route for route in routes.router.routes if not (isinstance(route, APIRoute) and route.path.endswith(_INFER))
]
routes.post(f"{settings.MONAI_LABEL_API_STR}{_INFER}", tags=["Infer"], response_model=None)(infer)
routes.add_exception_handler(MONAILabelException, refused)

app = Guard(routes, hosts={*LOOPBACK, *words(HOSTS)}, origins=words(ORIGINS))
