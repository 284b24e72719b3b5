"""A large model on a bulk connection that is slow and breaks all the time; leaves how often transfers went on."""

import asyncio
import json
import os
import threading
import time

import torch
from torch import nn

import plesio
from plesio.runtime.bulk import Bulk
from plesio.runtime.link import Link
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.parts import Part

PARTS = 5  # of one MiB, that a connection brings, or takes
torch.manual_seed(0)
x = torch.randn(64, 4)
y = x.sum(1, keepdim=True)
model = nn.Sequential(nn.Linear(4, 500_000), nn.Tanh(), nn.Linear(500_000, 1))  # 12 MB of float32
optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
went_on = {"up": 0, "down": 0, "breaks": 0}
whole_send, on_frame, subscription = wire.Channel.send_bulk, Bulk.on_frame, Link._subscription


async def slow_send(self, body, payload):
    await asyncio.sleep(0.01)
    await whole_send(self, body, payload)
    count_part(self)


def count_part(channel):
    """However fast they go, a push and a version need several connections."""
    channel.parts = getattr(channel, "parts", 0) + 1
    if channel.parts == PARTS:
        channel.abort()


def counted_frame(self, channel, body, payload):
    message = m.decode("bulk", body)
    went_on["up"] += isinstance(message, m.Subscribed) and message.have.size_bytes > 0
    on_frame(self, channel, body, payload)
    if isinstance(message, Part):
        count_part(channel)


def counted_subscription(self, have):
    went_on["down"] += have.size_bytes > 0
    return subscription(self, have)


def break_it():
    while not run.finished:
        time.sleep(0.09)
        went_on["breaks"] += 1
        link._loop.call_soon_threadsafe(break_now)


def break_now():
    """A connection that has brought nothing yet is left alone: on a machine with much to do it may take longer than that."""
    if getattr(link._bulk.channel, "parts", 0):
        link._bulk.channel.abort()


wire.Channel.send_bulk = slow_send
Bulk.on_frame, Link._subscription = counted_frame, counted_subscription
run = plesio.join()
learner = run.learner(model, optimizer)
link = run._engine.participant.link
threading.Thread(target=break_it, daemon=True).start()
for unit in run.units(64, 4, epochs=2):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples]).backward()
    optimizer.step()
    learner.step(tokens=len(unit))
with open(os.path.join(os.environ["PLESIO_RUN_DIR"], os.environ["PLESIO_NAME"] + ".json"), "w") as file:
    json.dump(went_on, file)
