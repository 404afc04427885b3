import pytest, outrider
from .harness import generate
@pytest.mark.parametrize("kw",[dict(temperature=0),dict(temperature=1.0,seed=3),dict(temperature=.7,seed=4)])
async def test_x(service, kw, draft, target):
    r = await generate(service.client, max_new_tokens=96, draft="model", **kw)
    print(kw, repr(r.text[:60]), r.summary, len(r.tokens), r.tokens[:12])
    r2 = await generate(service.client, max_new_tokens=96, draft="off", **kw)
    assert r.tokens==r2.tokens
    print(target.engine.counters, draft.engine.counters)
