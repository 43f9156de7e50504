import package

assert package.__doc__
print("1 passed")
