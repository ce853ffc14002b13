"""The asyncio shell: media in, one event per hop out.

A source's thread decodes or captures; the stream's thread turns media items
into slices (:class:`avff.engine.frontend.Frontend`); one engine thread shared
by all streams turns slices into predictions; the loop rolls them into events;
each sink writes them behind its own mailbox.  ``app.py`` is the only place
where these stages meet.
"""
