throw new Error("not in production");
