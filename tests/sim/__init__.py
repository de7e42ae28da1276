"""A simulated SGLang worker: its routes and shapes, a modelled engine, and every misbehaviour.

    connection.py   one HTTP/1.1 server connection; nothing is read or written unless asked
    faults.py       the misbehaviours as data, and which request they hit
    send.py         puts an answer on the wire, honestly or as a fault says
    engine.py       pure: prefix cache, prefill queue, decode times
    pacing.py       the engine on the event loop
    shapes.py       pure: SGLang's JSON
    call.py         one request while it is being answered
    bodies.py       what a request body says
    generating.py   /generate, chat, completions, responses
    reading.py      embeddings, classes, scores, tokens
    routes.py       what each path answers
    pairing.py      half of an engine: prefill or decode
    control.py      /_sim/...: change faults, see what was received
    records.py      what was received
    worker.py       one request from arrival to end

Run it with `python -m tests.sim --port 30005`; `--help` lists the switches.
"""
