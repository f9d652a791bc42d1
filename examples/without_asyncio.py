"""The synchronous face, and the sessions on disk."""

from _offline import options

import quarterdeck as qd
from quarterdeck.sync import Conversation

with Conversation(**options()) as talk:
    print(talk.say("Say hello.").text)

for info in qd.Catalog().list(limit=3):
    print(info.id, info.title)
