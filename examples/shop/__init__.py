"""A small shop on a bad day, twice: `python -m examples.shop`.

Two copies of the same shop get the same visitors and customers and ask two copies of the same inventory
service, which goes through the same bad day (`script.py`). One shop calls it plainly; the other finds it in
a registry, calls it through a pipeline, and has limits at its door (`protection.py`). All are real ASGI
services on the loopback, in processes of their own (`town.py`), and in the course of the day some are killed
(`troubles.py`). With `--url redis://…` each shop and each checkout is two processes, which are visited by
turns and, where they are protected, share what they know on that Redis.

One user is greedy (`greedy.py`) until the slow phase ends: asks for all products at once, again and again,
but after a refusal waits for as long as its Retry-After says.

The protected shop makes promises (`promises.py`); the exit status is 0 only if it kept them all:

- at least 99.5 % of the visitors get an answer, fresh or degraded;
- 99 of 100 answers, whatever they say, come within 1 s;
- while the inventory is down it gets at most 20 % of the calls that the unprotected shop sends;
- the breaker opens within 2 s of the outage, and is closed for good 2.5 s after its end;
- before the first trouble, and from 2.5 s after the outage, at least 99 % of the answers are fresh;
- while the inventory is flaky, at least 85 % are;
- an inventory that is killed, and another one that is added, cost no visitor a fresh answer;
- of the greedy user's requests no window has more than the limit allows, for all processes together;
- Retry-After is honoured: back exactly when told, the greedy user is let in, 99 times of 100;
- every refusal has a Retry-After of at least 1 s;
- no other visitor is refused;
- of the job that books the takings (`books.py`) every unit is done once, though three workers could do it, and
  the one that leads is killed;
- one other takes over within the ttl of the election and a second;
- each order (`customers.py` sends them twice, goes away and comes back; `partners.py` loses answers) is
  complete or undone with all partners, and on Redis so though a process is killed that works on them;
- no order is charged twice;
- each customer is told the truth, the same each time.

To add a pattern: its service beside `service.py` and `checkout.py`, its promise in `promises.py`.
"""
