console.log(`local main: node ${process.versions.node.split(".")[0]}`);
