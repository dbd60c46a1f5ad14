"""One actor, one compiled method: the smallest graph there is.

`greet.bind(name)` records a call instead of making it. Compiled, the call becomes one message through shared memory to
the actor's process and one back.

Expected output:
Hello, Ada!
Hello, Grace!
2 greetings by one actor
"""

import dagc


@dagc.remote
class Greeter:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting
        self.greeted = 0

    def greet(self, name: str) -> str:
        self.greeted += 1
        return f"{self.greeting}, {name}!"

    def count(self) -> int:
        return self.greeted


def main() -> None:
    greeter = Greeter.remote("Hello")
    with dagc.InputNode() as name:
        greeting = greeter.greet.bind(name)

    with dagc.compile(greeting) as graph:
        for person in ("Ada", "Grace"):
            print(graph.execute(person).get(timeout=10))

    # The actor outlives the graph, and takes ordinary calls too.
    print(dagc.get(greeter.count.remote()), "greetings by one actor")
    dagc.shutdown()


if __name__ == "__main__":
    main()
