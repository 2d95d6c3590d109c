"""MONAI Label's routes behind the guard: ``uvicorn neurobundle.label.asgi:app``. It needs MONAI Label.

MONAI Label infers, reads and writes within its event loop, so that nobody else is answered meanwhile, not even that
the server is busy. The routes here take the place of those that take long: they run in a thread. They also know an
image by the SeriesInstanceUID that a viewer of the archive has for it, and make DICOM segmentations of any study that
is DICOM, where MONAI Label makes them of its own store of an archive alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, File, Form, HTTPException, UploadFile
from fastapi.routing import APIRoute
from monailabel.app import app as routes
from monailabel.config import settings
from monailabel.endpoints import activelearning as sampling
from monailabel.endpoints import datastore as storing
from monailabel.endpoints import infer as inferring
from monailabel.endpoints import proxy, scoring
from monailabel.endpoints.infer import ResultType
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import remove_file
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

from neurobundle.commands.label import HOSTS
from neurobundle.errors import InputError, NeurobundleError
from neurobundle.label.app.datastore import ANSWERED_BY, Refused, StudyDatastore
from neurobundle.label.guard import LOOPBACK, Guard
from neurobundle.label.multipart import PIECE

#: Further pages that may use this server, with commas between them.
ORIGINS = "NEUROBUNDLE_LABEL_ORIGINS"

#: What of an inference no client says: what it is about, for how long it waits, and that its answer is kept as a label.
_OURS = frozenset({"model", "image", "session", "timeout", "save_label", "label_tag"})

#: So many studies are looked at for the next sample, of which all may be refused.
MOST_REFUSED = 10

_User = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
_Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]


def infer(
    background_tasks: BackgroundTasks,
    model: str,
    user: _User,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
) -> object:
    """A model's answer; for another series than the image shows, on that series' grid."""
    if file is not None or label is not None:
        raise HTTPException(400, "Images are gathered from studies: ask about one of them, by its id.")
    task = app_instance()._infers.get(model)
    if output in (ResultType.image, ResultType.dicom_seg) and task and task.type == InferType.CLASSIFICATION:
        raise HTTPException(422, f"{model} answers a class, which is no image: ask for json.")
    image, scan = store().store.named(image)
    wanted = {**{name: value for name, value in _mapping(params).items() if name not in _OURS}, "scan": scan}
    if output == ResultType.dicom_seg:
        output, wanted["result_extension"] = ResultType.image, ".dcm"
    answer = inferring.run_inference(background_tasks, model, image, session_id, json.dumps(wanted), None, None, output)
    store().update_image_info(image, {ANSWERED_BY: model})
    return answer


def next_sample(strategy: str, user: _User, params: Annotated[dict[str, Any] | None, Body()] = None) -> dict[str, Any]:
    """The next image that the gate lets pass, with what a viewer of the archive wants to know of it."""
    store().relist()
    for _ in range(MOST_REFUSED):
        try:
            found = dict(sampling.sample(strategy, params, user.username))
        except Refused as error:
            last = error
        else:
            return {**found, **store().store.shown(str(found.get("id", "")))}
    raise HTTPException(422, f"{MOST_REFUSED} studies were refused, the last: {last.msg} Ask again for further ones.")


def image_file(image: str, user: _User, check_sum: str | None = None) -> object:
    """The file of an image."""
    return storing.download_image(store().store.named(image)[0])


def image_check(image: str, user: _User, check_sum: str | None = None) -> object:
    """Whether there is such an image."""
    return storing.download_image(store().store.named(image)[0], check_only=True, check_sum=check_sum)


def keep_label(
    background_tasks: BackgroundTasks,
    image: str,
    label: Annotated[UploadFile, File()],
    user: _Annotator,
    params: Annotated[str, Form()] = "{}",
    tag: str = "final",
) -> object:
    """Keep a label of an image."""
    case, scan = store().store.named(image)
    if store().store.grid_of(case, scan) is not None:
        raise HTTPException(422, "Labels are drawn on the series that the next sample names; that is another one.")
    try:
        return storing.save_label(background_tasks, case, json.dumps(_mapping(params)), tag, label, user.username)
    except BaseException:
        # What MONAI Label removes once it has answered stays where it does not answer.
        for task in background_tasks.tasks:
            task.func(*task.args, **task.kwargs)
        raise


def dataset(background_tasks: BackgroundTasks, user: _Annotator, limit_cases: int | None = None) -> object:
    """All final labels with their images, in one archive, which MONAI Label does not remove."""
    if not store().get_labeled_images():
        raise HTTPException(404, "There is no final label yet.")
    answer = storing.download_dataset(limit_cases)
    background_tasks.add_task(remove_file, answer.path)
    return answer


def scored(
    method: str, user: _Annotator, params: Annotated[dict[str, Any] | None, Body()] = None, run_sync: bool = False
) -> object:
    """What a scoring method says, or that it was begun."""
    return scoring.run_method(method, params, run_sync)


def proxied(request: Request, path: str, user: _User) -> StreamingResponse:
    """What the archive answers to a viewer; MONAI Label's own route drops the query, and holds the answer as a whole.

    Of the viewer's headers the archive gets what it accepts; the user is the server's.
    """
    service, _, rest = path.partition("/") if path.startswith(("qido/", "wado/")) else ("", "", path)
    # Some viewers ask the service of lists for metadata.
    service = "wado" if rest.endswith("metadata") else service
    query = f"?{request.url.query}" if request.url.query else ""
    try:
        answer = store().store.pass_on(service, f"{rest}{query}", request.headers.get("accept", "*/*"))
    except NeurobundleError as error:
        raise HTTPException(404 if isinstance(error, InputError) else 502, error.brief()) from error
    kept = {name: answer.headers[name] for name in ("content-type", "content-length") if name in answer.headers}
    return StreamingResponse(_pieces(answer), answer.status, kept)


def store() -> StudyDatastore:
    """That of the app."""
    found = app_instance().datastore()
    assert isinstance(found, StudyDatastore)
    return found


async def refused(request: Request, error: Exception) -> JSONResponse:
    """An error of the app as a sentence, which MONAI Label would answer with a traceback in its log and no word."""
    said = error.brief() if isinstance(error, NeurobundleError) else str(getattr(error, "msg", error))
    return JSONResponse({"detail": said}, status_code=422)


def words(variable: str) -> list[str]:
    """The words of an environment variable, with commas between them."""
    return [word for word in os.environ.get(variable, "").split(",") if word]


def in_the_place_of(router: APIRouter, method: str, path: str, endpoint: Callable[..., object]) -> None:
    """Put a route in the place of one of MONAI Label's; FastAPI runs what is not ``async`` in a thread.

    Args:
        router: of MONAI Label, which has the route.
        method: of HTTP.
        path: below that of the API.
        endpoint: answers.
    """
    (there,) = [
        one for one in router.routes if isinstance(one, APIRoute) and (one.path, one.methods) == (path, {method})
    ]
    router.routes.remove(there)
    path = f"{settings.MONAI_LABEL_API_STR}{path}"
    routes.add_api_route(path, endpoint, methods=[method], tags=list(there.tags), response_model=None)
    # Before those that FastAPI may have taken over from the router already: the first that fits answers.
    routes.router.routes.insert(0, routes.router.routes.pop())


def _pieces(answer: Any) -> Iterator[bytes]:
    with answer:
        while piece := answer.read(PIECE):
            yield piece


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HTTPException(400, "params is no JSON object.")
    return found


def _ending(inner: Callable[[FastAPI], Any]) -> Callable[[FastAPI], Any]:
    """MONAI Label's life, at whose end what patients are called is removed from the disk."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state:
            yield state
        store().store.close()

    return life


in_the_place_of(inferring.router, "POST", "/infer/{model}", infer)
in_the_place_of(sampling.router, "POST", "/activelearning/{strategy}", next_sample)
in_the_place_of(storing.router, "GET", "/datastore/image", image_file)
in_the_place_of(storing.router, "HEAD", "/datastore/image", image_check)
in_the_place_of(storing.router, "PUT", "/datastore/label", keep_label)
in_the_place_of(storing.router, "GET", "/datastore/dataset", dataset)
in_the_place_of(scoring.router, "POST", "/scoring/{method}", scored)
in_the_place_of(proxy.router, "GET", "/proxy/dicom/{path:path}", proxied)
for kind in (MONAILabelException, NeurobundleError):
    routes.add_exception_handler(kind, refused)
routes.router.lifespan_context = _ending(routes.router.lifespan_context)

app = Guard(routes, hosts={*LOOPBACK, *words(HOSTS)}, origins=words(ORIGINS))
