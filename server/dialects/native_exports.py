"""Files of rows that are made while they are sent: CSV as it is read, Parquet from a temporary file."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from server.dialects.base import BaseHandler
from server.services.model_exports import EXPORTS, CsvFile, ParquetFile

__all__ = ["FILES", "send_file"]

FILES: Final = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
PIECE: Final = 2**18


async def send_file(handler: BaseHandler, noun: str, form: str, batches: AsyncIterator[Sequence[Any]],
                    name: str) -> None:
    """Answer with all rows of `batches` as a file; nothing is held but one batch. Errors of the first batch are still
    told as such."""
    first: Sequence[Any] | None = await anext(aiter(batches), None)  # type: ignore[arg-type]
    handler.set_status(200)
    handler.set_header("Content-Type", FILES[form])
    handler.set_header("Content-Disposition", f'attachment; filename="{name}.{form}"')
    if form == "csv":
        sheet = CsvFile(EXPORTS[noun])
        handler.write(await handler.off_loop(sheet.add, first or []))
        await handler.flush()
        async for batch in batches:
            handler.write(await handler.off_loop(sheet.add, batch))
            await handler.flush()
    else:
        with tempfile.TemporaryFile() as file:
            made = await handler.off_loop(ParquetFile, EXPORTS[noun], file)
            await handler.off_loop(made.add, first or [])
            async for batch in batches:
                await handler.off_loop(made.add, batch)
            await handler.off_loop(made.finish)
            file.seek(0)
            while piece := await handler.off_loop(file.read, PIECE):
                handler.write(piece)
                await handler.flush()
    await handler.finish()
